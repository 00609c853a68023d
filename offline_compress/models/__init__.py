"""Networks by name, their parts, and checkpoints that carry their shape."""
