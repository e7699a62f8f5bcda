"""What runs on top of the bus, each service a process of its own under the supervisor of `sira up`.

Owns the services; refuses to know how a node decides: a service is a client like any other. Nobody
imports this folder; the supervisor starts what is in it by name. Read http/__init__.py first.
"""
