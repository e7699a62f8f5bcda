"""Long runs by the clock: `python -m tests.soak`. Read __main__.py first."""
