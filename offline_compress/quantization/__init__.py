"""Quantisation: the same network in float16 and int8, one ONNX file per family of engines."""
