"""Turns a program into a trustworthy number: sandboxed training, evaluation out of the program's reach."""
