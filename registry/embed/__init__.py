"""Texts as vectors: one interface, an embedder that needs nothing, one that runs a local model.

Owns: what a text's features are (`features`), the default embedder made of them (`hashed`), a model
directory in ONNX form (`onnx_model`), and the refusal to compare vectors of two embedders
(`interface`). Refuses to know what is embedded and why: agents, queries and scores are the
ranking's. No sockets, threads or clocks; nothing is ever downloaded. Read interface.py first.
"""
