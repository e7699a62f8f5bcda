"""Which capability a request means: parts that score, their mix, what it is worth. Pure.

Owns: what is compared of an entry (`entries`), the parts and their mix (`ranker`), the head that
learns from examples (`head`), what a score is worth (`calibrate`), what outcomes change
(`feedback`), and the answer with its reasons (`answer`). An entry is one capability of one agent,
by a key that the caller chooses. Refuses to know: registrations, rights, health, load, contracts
(the caller says which entries may be answered), and where vectors are indexed (the caller may name
entries that an index found). No sockets, threads or clocks. Read entries.py, then ranker.py.
"""
