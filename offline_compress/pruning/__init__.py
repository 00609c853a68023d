"""Structured pruning to a budget: what goes is chosen, tried, cut, recovered and judged."""
