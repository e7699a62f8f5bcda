"""Kill -9 and worse, by seed: `python -m tests.fault --issue bus`. Read __main__.py first."""
