"""Compression of networks of any make: what to import, and docs/own_network.md how to use it."""

from offline_compress.channels.description import Description
from offline_compress.channels.groups import ChannelGroup, Slice
from offline_compress.channels.proof import proven_groups as channel_groups
from offline_compress.channels.surgery import keep_channels
from offline_compress.importance.measure import measure as channel_scores
from offline_compress.importance.scores import ChannelScores
from offline_compress.models.pruned_file import load_pruned, save_pruned
from offline_compress.pruning.checks import recalibrate
from offline_compress.pruning.own_network import Compressed, choose, compress
from offline_compress.recipe.compression import Budget, PruningRules
from offline_compress.training.feature_teacher import FeatureTeacher

__all__ = [
    "Budget",
    "ChannelGroup",
    "ChannelScores",
    "Compressed",
    "Description",
    "FeatureTeacher",
    "PruningRules",
    "Slice",
    "channel_groups",
    "channel_scores",
    "choose",
    "compress",
    "keep_channels",
    "load_pruned",
    "recalibrate",
    "save_pruned",
]
