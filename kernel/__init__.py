"""The small middle of a node: topics, matching, queues, admission, accounting, errors, settings.

Owns what happens to one message on one node. Refuses to know about durable logs, meaning,
placement and other nodes: those are services above it.
"""
