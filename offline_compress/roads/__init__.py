"""Procedurally rendered roads with exact labels, as data sets and as recordings."""
