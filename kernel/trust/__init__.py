"""Who a connection speaks for: certificates, tokens, and the credential that they prove.

Owns keys, certificates, tokens, revocation lists. Refuses to know topics and what a principal may
do (`sira.kernel.policy`). Read `credential.py` first, then `authenticate.py`.
"""
