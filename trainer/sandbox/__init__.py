"""Runs a stranger's PyTorch program where it can hurt nothing but its own score."""
