"""Wrapping: anybody's network becomes a bundle, its pre- and post-processing in the graph."""
