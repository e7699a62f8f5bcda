"""The gRPC edge: sockets, calls, statuses. Each handler parses, asks the bus, translates.

Owns the one door that every call passes (`door.py`): who asks, may they, what went wrong. Refuses
to decide anything about topics or messages. Read door.py first, then publish.py and subscribe.py.
"""
