"""Baseline programs, one per track. They are data to the rest of the code: nobody imports them."""
