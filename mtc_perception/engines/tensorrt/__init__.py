"""TensorRT and TensorRT-RTX: built engines, where they are kept, and running them."""
