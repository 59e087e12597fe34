"""Structural changes of programs, as data."""
