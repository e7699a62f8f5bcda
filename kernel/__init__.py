"""The small middle of a node: topics, matching, queues, admission, accounting, errors, settings.

Owns what happens to one message on one node. Refuses to know about durable logs, meaning,
placement and other nodes: those are services above it.

Read bus.py first: it decides who publishes where and who gets it, and holds no socket and no
clock. routes.py says where messages go, listening.py makes subscriptions live, telling.py says what
happened, slices.py keeps long work from holding the loop. What they ask is pure: topics.py (names
and patterns), authorize.py, policy/, admission/, opening.py, declaring.py.
subscriptions.py, topic_table.py, clients.py and streams.py are its state. The data plane that
moves the bytes is C (native/hub.h). edge/ is gRPC; node.py puts all together and lets time pass;
daemon.py is its process, a child of supervisor/.
"""
