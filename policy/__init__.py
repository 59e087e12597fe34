"""Decides whether a claim deserves belief."""
