"""Measurements behind the README's numbers: `python -m bench.run`."""
