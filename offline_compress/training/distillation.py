"""Distillation of features: a student learns what a teacher's backbone and encoder compute.

No head takes part, so a teacher with a query decoder teaches a student with a dense head as well as
its own kind.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from offline_compress.models.fuse import fuse
from offline_compress.models.registry import ModelSpec, load_checkpoint, load_spec

TAP_WEIGHTS = {"c3": 1.0, "c4": 1.0, "c5": 1.0, "p3": 2.0, "p4": 2.0, "p5": 2.0}
"""Backbone and encoder levels of every network; the encoder's weigh twice."""
TRUNK = ("backbone", "encoder")
NORM_EPS = 1e-3
"""Added to variances, and small beside those at the taps of trained networks: the gradient of a
channel that hardly varies over a batch stays bounded."""


class Trunk(nn.Module):
    """Backbone and encoder of a network, frozen, in deployment form, as fast as eager PyTorch gets.

    A copy: the network itself stays as it is.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        fused = fuse(model)
        self.backbone = fused.get_submodule("backbone")
        self.encoder = fused.get_submodule("encoder")
        _fold_norms(self)
        self.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """[N, 3, H, W] normalised RGB, H and W multiples of 32 -> taps c3..p5."""
        _, *levels = self.backbone(image)
        return dict(zip(TAP_WEIGHTS, (*levels, *self.encoder(levels)), strict=True))


def _fold_norms(network: nn.Module) -> None:
    """Fold every BatchNorm into the convolution that its parent applies before it."""
    for parent in list(network.modules()):
        for (conv_name, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, nn.Identity())


class FeatureDistillation(nn.Module):
    """The distance between a student's features and a frozen teacher's (PKD, arXiv 2207.02039).

    A tap of width W of a student that was pruned from the teacher is compared with the W channels
    of the teacher that it kept; of any other student, with the teacher's whole tap through a 1x1
    convolution without bias that is trained along. These `projections` are the only parameters
    that learn; they belong to the training, not to the student.
    """

    def __init__(
        self,
        teacher: Trunk,
        kept: Mapping[str, list[int] | None],
        student_widths: Mapping[str, int],
    ) -> None:
        """A teacher for a student whose taps have `student_widths` channels.

        Args:
            teacher: in eval mode.
            kept: per tap the teacher's channels that the student's are, in order; None: unrelated.
            student_widths: of unrelated taps at least.
        """
        super().__init__()
        self.teacher = teacher
        widths = tap_widths(teacher)
        self.projections = nn.ModuleDict()
        for tap, channels in kept.items():
            if channels is None:
                self.projections[tap] = nn.Conv2d(student_widths[tap], widths[tap], 1, bias=False)
            elif channels != list(range(widths[tap])):
                self.register_buffer(f"kept_{tap}", torch.tensor(channels), persistent=False)

    def train(self, mode: bool = True) -> "FeatureDistillation":
        """The teacher is never in training mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, image: torch.Tensor, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum over the taps of TAP_WEIGHTS x `distance`, a float32 scalar.

        Args:
            image: [N, 3, H, W] normalised RGB, what the student saw.
            features: the student's taps, [N, C, H / stride, W / stride] of any precision.
        """
        with torch.no_grad():
            taught = self.teacher(image)
        total = torch.zeros((), device=image.device)
        for tap, weight in TAP_WEIGHTS.items():
            own = features[tap]
            if tap in self.projections:
                own = self.projections[tap](own)
            kept = getattr(self, f"kept_{tap}", None)
            target = taught[tap] if kept is None else taught[tap].index_select(1, kept)
            total = total + weight * distance(own, target)
        return total


def distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Half the mean squared difference of features standardised per channel over the batch.

    But for NORM_EPS this is 1 - r, r being the correlation over images and pixels, averaged over
    the channels (arXiv 2207.02039): 0 for features that agree up to scale and offset, 1 for
    unrelated ones. Computed in float32.

    Args:
        student, teacher: [N, C, H, W] of one shape.
    """
    return F.mse_loss(standardised(student), standardised(teacher)) / 2


def standardised(features: torch.Tensor) -> torch.Tensor:
    """[N, C, H, W] with mean 0 and variance 1 of every channel over N, H and W, float32."""
    return F.batch_norm(features.float(), None, None, training=True, eps=NORM_EPS)


def decayed(step: int, steps: int, decay: float) -> float:
    """Factor of the distance's weight at a step of a run: 1, and at the end a cosine down to 0.

    Args:
        decay: share of the steps that the cosine takes.
    """
    left = 1 - step / steps
    return 1.0 if left >= decay else (1 - math.cos(math.pi * left / decay)) / 2


def feature_distillation(path: Path, student: ModelSpec) -> FeatureDistillation:
    """The teacher of checkpoint `path` for a student of that spec. Raises UserError."""
    teacher = Trunk(load_checkpoint(path))
    return FeatureDistillation(teacher, kept_channels(student, load_spec(path)), _widths(student))


def kept_channels(student: ModelSpec, teacher: ModelSpec) -> dict[str, list[int] | None]:
    """Per tap the teacher's channels that the student's are, in order; None if they are not.

    They are if the trunks of both networks descend from one unpruned shape, and the student has no
    channel that the teacher lacks.
    """
    whole_student, whole_teacher = (
        replace(spec, shapes={}, taps={}) for spec in (student, teacher)
    )
    if _trunk_shapes(whole_student) != _trunk_shapes(whole_teacher):
        return dict.fromkeys(TAP_WEIGHTS)
    found: dict[str, list[int] | None] = {}
    for tap, width in _widths(whole_student).items():
        place = {channel: n for n, channel in enumerate(teacher.taps.get(tap, range(width)))}
        wanted = student.taps.get(tap, range(width))
        known = all(channel in place for channel in wanted)
        found[tap] = [place[channel] for channel in wanted] if known else None
    return found


def _trunk_shapes(spec: ModelSpec) -> tuple[str, dict[str, torch.Size]]:
    with torch.device("meta"):
        tensors = spec.build().state_dict()
    shapes = {name: value.shape for name, value in tensors.items() if name.startswith(TRUNK)}
    return spec.architecture, shapes


def _widths(spec: ModelSpec) -> dict[str, int]:
    with torch.device("meta"):
        return tap_widths(Trunk(spec.build()))


@torch.no_grad()
def tap_widths(trunk: Trunk) -> dict[str, int]:
    """Channels of every tap."""
    image = torch.zeros(1, 3, 64, 64, device=next(trunk.parameters()).device)
    return {tap: feature.shape[1] for tap, feature in trunk(image).items()}
