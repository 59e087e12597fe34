"""Swarms of real processes that are killed, frozen, parted, slowed down: what is lost, and how long healing takes.

Most members are the product as users start it, `waggle start --observe`; a few *speakers* (speaker.py) state something
when they are told to. The first member makes a challenge, and the others know nothing but its address.
"""
