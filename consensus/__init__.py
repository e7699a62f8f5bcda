"""What all nodes must agree on: a replicated journal of small tables.

Will own the interface to Raft (PySyncObj behind it), membership, the tables and their
transactions, leases with fencing tokens, and committed time. Refuses to know what a service's
bytes mean, and never carries message payloads or routes a request. Nothing is implemented here yet.
"""
