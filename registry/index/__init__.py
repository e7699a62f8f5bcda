"""Nearest vectors, behind one interface: exact, embedded Qdrant, a Qdrant server.

Owns what is derived and can be made again from the table `agents`: named collections of vectors
with tags. Refuses to know what the vectors mean and how hits are ranked. Read interface.py first.
"""
