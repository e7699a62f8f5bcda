"""What a node must not forget, and later all nodes agree on: small tables and their one journal.

Owns the tables and their transactions, leases with fencing tokens, configuration with history,
committed time, the journal on disk. Refuses to know what a service's bytes mean, and never carries
message payloads or routes a request. Read docs/consensus.md, then tables.py (the interface),
state.py (what an entry does, pure), one_node.py (the driver of a cluster of one).
"""
