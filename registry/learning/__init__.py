"""What a registry learns while it runs: when, by which process, and how it is kept.

Owns the training of heads and calibrations (`rank/learn`) on a node. Refuses to know how they are
used. Read trainer.py first; when.py decides, stored.py has the files, child.py is the process.
"""
