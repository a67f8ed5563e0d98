"""Latency of a step: protocols, the timer, rows with every raw sample."""
