"""What every part needs and nothing of the product: errors, files, provenance, command lines."""
