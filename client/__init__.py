"""The SDK: what gateways and agents hold in their hands, asynchronous and its synchronous twin.

Owns connecting, publishing, subscribing, calling and the life of an agent. Refuses to know how a
node is built: it speaks sira.v1 and the shared-memory lane, no more.
"""
