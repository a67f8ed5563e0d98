"""Puts stages together: whole runs, sweeps over backbones in child processes."""
