"""Labelled data sets of every layout as lists of samples."""
