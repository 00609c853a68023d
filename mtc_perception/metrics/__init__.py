"""Accuracy: one implementation for training, evaluation and replay."""
