"""The commands of `mtc-compress`: each only parses and prints."""
