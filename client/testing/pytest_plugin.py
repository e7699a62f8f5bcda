"""The pytest plugin `sira`, loaded by pytest wherever Sira is installed.

It is imported at the start of every pytest run, before coverage measures anything: what it needs of
Sira is imported inside its fixtures.
"""
