"""Structured pruning: which channels belong together, and cutting them out."""
