"""Fuzzing at the gRPC and HTTP doors of a node that guards secrets.

Owns what is sent, what must stay true meanwhile, and what is counted. It knows the contract and the
HTTP paths, nothing of the node's inside. Read plans.py first: each attack is a plan, a pure
function of its seed; drive.py carries it out, stage.py holds the node, its secrets and witnesses.
"""
