"""Evaluation of checkpoints and bundles: accuracy, speed, and their report."""
