"""Backbone + head, freezing, the cut, and the compiled steps.

Shapes: B images a batch, S pixels a side, C classes.
"""
