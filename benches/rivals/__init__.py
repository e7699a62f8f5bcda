"""The rivals, each used the way its own documentation says is fast. Read `grpc_raw.py` first.

Owns one module a rival, with one function for each role of a row; knows nothing of Sira.
"""
