"""Benchmarks: each measures against a reference in the same run and says whether its goals are met.

A new one is a module with `PARTS` and a line in `__main__.BENCHES`.
"""
