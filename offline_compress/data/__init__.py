"""Training samples: drawn, augmented, cached, and the check of a whole data set."""
