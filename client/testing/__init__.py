"""Help for the tests of those who build on Sira. Import it as `sira.testing`.

Owns throw-away nodes and the pytest plugin. Refuses to be imported by Sira itself.
"""
