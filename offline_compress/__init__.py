"""Offline compression of multi-task perception networks: train, score, prune, distil, export."""

import mtc_perception  # noqa: F401  # switches off what libraries report
