"""Reports of compression runs."""
