"""What tensors survive: dtype x layout x library x lane, compared bit for bit.

Run `python -m tests.conformance`; it writes docs/conformance.md and exits 1 on any mismatch.
Owns the cases and the adapters to array libraries and lanes; knows nothing of how either works.
Read cases.py first.
"""
