"""Measurements behind docs/measurements.md; `python -m bench` makes those that are ratios to a peer or to a limit."""
