"""The HTTP listener: publish, request and subscribe for whoever has no gRPC, metrics, health.

Owns HTTP: bodies, problems, timeouts of slow clients. Has no rights of its own and refuses to know
who may do what: each call goes to the node, over the Unix socket in the data folder, with the
caller's own `Authorization`. Read app.py first (routes), then gateway.py (the way to the node).
"""
