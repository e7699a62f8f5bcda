"""Who speaks: from what a connection shows to a `Credential`, and the keys and files behind it.

Owns: certificates of the cluster, Biscuit tokens, JWTs of configured issuers, files of secrets and
of revocations. Refuses to know: what a principal may do (sira.kernel.policy), sockets, threads and
the clock: "now" is an argument. Read first: credential.py, then authenticate.py, which a node asks
for each call.
"""
