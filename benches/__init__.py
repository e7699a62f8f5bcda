"""Benchmarks: Sira beside raw grpcio, pyzmq, NATS and Redis, measured in one run on one machine.

Owns the method, the load generators and the rivals. Refuses to judge: a goal is printed beside
each figure with whether it was met, and is never an assertion. Not installed with the package.
Run `python -m benches`; read README.md for the method, then `harness.py`, then `rows/rtt.py`.
"""
