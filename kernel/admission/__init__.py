"""How much may a tenant, a principal, a topic use? Named limits; by default there are none.

Owns: what a limit says and to whom it applies (limits.py), the buckets and counters behind it, and
the refusals `RATE_LIMITED` and `QUOTA_EXCEEDED`, which name it. Refuses to know: who asks
(`sira.kernel.trust`) and what it is for. Read limits.py first,
then admission.py; native/bucket.h has the arithmetic.
"""
