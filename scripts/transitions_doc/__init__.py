"""Writes docs/transitions.md from the transition tables."""
