"""Remembers what was claimed, by whom, and what became of it. Imports nothing of ours."""
