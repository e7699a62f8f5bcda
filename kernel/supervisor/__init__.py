"""The pid of `sira up`: starts the node and what stands beside it, and starts again what dies.

Owns the data folder's lock, the ports and the life of the children. Refuses to know gRPC, threads,
event loops and what the children do: it must outlive each of them, and a process without threads
may start others at any time. Read pure.py first (what is decided), then run.py (what is done).
"""
