"""Compression of networks of any make: what to import, and docs/own_network.md how to use it."""

from mtc_perception.datasets.layout import read_split
from offline_compress.channels.description import Description
from offline_compress.channels.groups import ChannelGroup, Slice
from offline_compress.channels.proof import proven_groups as channel_groups
from offline_compress.channels.proof import switch_off
from offline_compress.channels.surgery import keep_channels
from offline_compress.data.labelled_batches import LabelledBatches
from offline_compress.importance.measure import measure as channel_scores
from offline_compress.importance.scores import ChannelScores
from offline_compress.models.pruned_file import load_pruned, save_pruned
from offline_compress.pruning.checks import recalibrate
from offline_compress.pruning.own_network import Compressed, choose, compress, control
from offline_compress.pruning.own_subject import Step
from offline_compress.recipe.compression import Budget, PruningRules
from offline_compress.recipe.parts import InputPx
from offline_compress.training.feature_teacher import FeatureTeacher
from offline_compress.wrapping.network_map import (
    Anchored,
    AnchorFree,
    Boxes,
    Final,
    Mask,
    NetworkInput,
    NetworkMap,
    Query,
)
from offline_compress.wrapping.wrap import wrap_module

__all__ = [
    "AnchorFree",
    "Anchored",
    "Boxes",
    "Budget",
    "ChannelGroup",
    "ChannelScores",
    "Compressed",
    "Description",
    "FeatureTeacher",
    "Final",
    "InputPx",
    "LabelledBatches",
    "Mask",
    "NetworkInput",
    "NetworkMap",
    "PruningRules",
    "Query",
    "Slice",
    "Step",
    "channel_groups",
    "channel_scores",
    "choose",
    "compress",
    "control",
    "keep_channels",
    "load_pruned",
    "read_split",
    "recalibrate",
    "save_pruned",
    "switch_off",
    "wrap_module",
]
