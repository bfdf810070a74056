"""Microbenchmarks of the operations: ``python -m benchmarks``."""
