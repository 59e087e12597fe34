"""Owns processes, tasks and time; the only package that sees all the others."""
