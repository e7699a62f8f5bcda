"""What services bring into a node's table while it runs: reading their offers, keeping their calls.

Owns the checks of an offer (descriptors.py, offer.py) and the bookkeeping of calls under way
(calls.py). Refuses to know about streams: those are edge/attach.py's. Both ends of a call are
strangers here: what a service says is held to named limits before it costs anything.
"""
