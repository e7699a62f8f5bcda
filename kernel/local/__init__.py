"""The node's Unix socket, `sira.sock`: every call of the contract as records, without gRPC.

Owns the records, who the peer is, windows, and the listener; what a call may do is decided behind
the one door (kernel/edge/door.py). `channel.py` and `flow.py` are both ends': the SDK uses them,
too (client/local/). Read record.py first; the format and why it is so are in docs/shm.md.
"""
