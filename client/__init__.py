"""The SDK: what gateways and agents hold in their hands, asynchronous and its synchronous twin.

Owns connecting, publishing, subscribing, asking and the life of an agent. Refuses to know how a
node is built: it speaks sira.v1 through a `Transport` (transport.py), no more. Read bus.py first,
then connection.py (one node, its two streams, coming back after a loss), outgoing.py and
incoming.py (what runs on those streams). sync.py is the twin without `await`, agent.py what serves.
"""

import logging

# A library never writes to the terminal by itself: whoever wants the log adds a handler.
logging.getLogger("sira").addHandler(logging.NullHandler())
