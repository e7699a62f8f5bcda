"""The command `sira`: every verb, for people and, with --json, for programs.

Owns arguments, output and exit codes. Refuses to know what `client` and the services already do:
a verb is a thin caller of them. Read `verbs.py` first: help, completion, `--emit-spec` and the
parser are all made from its table; then `output.py`, which is the contract with programs.
"""
