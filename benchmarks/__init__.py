"""Benchmarks: `pytest benchmarks --benchmark-only`; never part of the test suite."""
