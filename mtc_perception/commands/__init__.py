"""`mtc-engine`."""
