"""Who can do what: agents, their capabilities, and finding them by meaning.

Will own registrations and their leases, heartbeats and health, the search index (Qdrant behind one
interface) and the reasons given with each match. Refuses to know which of the matches gets the
load (`scheduler`), how a message reaches it (`kernel`), and how a table is replicated
(`consensus`). Nothing is implemented here yet.
"""
