"""Who can do what: agents, their capabilities, and finding them by meaning.

Owns registrations (`records`), who is alive (`health`, pure; `live`), and the search (embedders,
ranking, the index, Qdrant behind one interface) with the reasons given for each match. Refuses to
know which of the matches gets the load (`scheduler`), how a message reaches it (`kernel`), and how
a table is replicated (`consensus`). Read records.py first.
"""
