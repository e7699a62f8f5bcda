"""What a node is made of: the composition root.

Owns the list of parts and the module that the supervisor starts. Refuses to know how any part
works. Read parts.py first.
"""
