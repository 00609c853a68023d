"""Which channels of a network belong together, and cutting them out."""
