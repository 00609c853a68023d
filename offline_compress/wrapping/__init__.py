"""Wrapping: anybody's ONNX file becomes a bundle, its pre- and post-processing in the graph."""
