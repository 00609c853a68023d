"""The HTML pages of a run, of a comparison and of the demo."""
