"""What became of one image: its record, how it is judged, and the figures of it."""
