"""How much each channel matters to each task, and which channels the tasks fight over.

Our own formulation of ideas of arXiv 2511.05557, whose equations are not public: docs/method.md.
"""

from offline_compress.importance.criteria import criterion_scores, locked
from offline_compress.importance.measure import measure
from offline_compress.importance.scores import ChannelScores, conflict_summary, load, save

__all__ = [
    "ChannelScores",
    "conflict_summary",
    "criterion_scores",
    "load",
    "locked",
    "measure",
    "save",
]
