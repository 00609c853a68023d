"""Offline compression of multi-task perception networks: train, score, prune, distil, export."""
