"""Measurements behind the numbers in documents: `python -m bench.run`."""
