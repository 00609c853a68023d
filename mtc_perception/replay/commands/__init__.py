"""The commands of `mtc-replay`."""
