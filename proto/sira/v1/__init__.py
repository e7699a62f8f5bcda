"""The wire contract of package sira.v1: the .proto files, and what protoc makes of them.

Owns every message and call that crosses a process boundary; changes are additive only. Refuses to
know who serves them. The modules here are written by `make proto`: edit the .proto files instead.
"""
