"""Distillation: a student learns what a teacher's backbone and encoder compute, and if asked its
answers.

No head takes part in the features, so a teacher with a query decoder teaches a student with a dense
head as well as its own kind. Masks are of one form in all networks; vehicles are not.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mtc_perception.util.errors import UserError
from offline_compress.data.targets import Targets
from offline_compress.losses.task_losses import MASK_WEIGHT, QUERY_WEIGHT
from offline_compress.losses.teacher_losses import (
    foreground,
    mask_divergence,
    vehicle_divergence,
)
from offline_compress.models.decoder import QueryDetections
from offline_compress.models.denoising import DenoisingQueries
from offline_compress.models.fuse import fuse
from offline_compress.models.heads import DenseDetectionHead, DenseDetections
from offline_compress.models.network import NetworkOutput
from offline_compress.models.registry import ModelSpec, load_checkpoint, load_spec
from offline_compress.recipe.compression import Lessons
from offline_compress.training.feature_distance import FeatureDistances

TAP_WEIGHTS = {"c3": 1.0, "c4": 1.0, "c5": 1.0, "p3": 2.0, "p4": 2.0, "p5": 2.0}
"""Backbone and encoder levels of every network; the encoder's weigh twice."""
ENCODER_TAPS = ("p3", "p4", "p5")
TRUNK = ("backbone", "encoder")


class Trunk(nn.Module):
    """Backbone and encoder of a network, frozen, in deployment form, as fast as eager PyTorch gets.

    A copy: the network itself stays as it is.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        fused = fuse(model)
        self.backbone = fused.get_submodule("backbone")
        self.encoder = fused.get_submodule("encoder")
        _freeze(self)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """[N, 3, H, W] normalised RGB, H and W multiples of 32 -> taps c3..p5."""
        _, *levels = self.backbone(image)
        return dict(zip(TAP_WEIGHTS, (*levels, *self.encoder(levels)), strict=True))


class WholeNetwork(nn.Module):
    """A network with its heads, as `Trunk` has it without."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.network = fuse(model)
        _freeze(self)

    def forward(self, image: torch.Tensor, noised: DenoisingQueries | None = None) -> NetworkOutput:
        """[N, 3, H, W] normalised RGB, H and W multiples of 32 -> answers and taps; of a network
        with a query decoder also what it makes of the denoising queries."""
        given = {} if noised is None else {"noised": noised}
        output: NetworkOutput = self.network(image, **given)
        return output


def _freeze(network: nn.Module) -> None:
    _fold_norms(network)
    network.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _fold_norms(network: nn.Module) -> None:
    """Fold every BatchNorm into the convolution that its parent applies before it."""
    for parent in list(network.modules()):
        for (conv_name, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, nn.Identity())


class Teacher(nn.Module):
    """What a frozen teacher has to say about a student's answers: one loss per lesson.

    Features are compared as `FeatureDistances` says. Its projections are the only parameters that
    learn; they belong to the training, not to the student.
    """

    def __init__(
        self,
        model: nn.Module,
        lessons: Lessons,
        kept: Mapping[str, list[int] | None],
        student_widths: Mapping[str, int],
    ) -> None:
        """A teacher for a student whose taps have `student_widths` channels.

        Args:
            model: the teacher's network.
            lessons: what it teaches.
            kept: per tap the teacher's channels that the student's are, in order; None: unrelated.
            student_widths: of unrelated taps at least.
        """
        super().__init__()
        answers = lessons.masks or lessons.vehicles or lessons.queries
        self.teacher = WholeNetwork(model) if answers else Trunk(model)
        self.weights = {"features": lessons.weight}
        if lessons.foreground:
            self.weights["foreground"] = lessons.weight * lessons.foreground
        if lessons.masks:
            self.weights["masks"] = lessons.masks * MASK_WEIGHT["dice"]
        if lessons.vehicles:
            self.weights["vehicles"] = lessons.vehicles
        if lessons.queries:
            self.weights["queries"] = lessons.queries * QUERY_WEIGHT
        self.distances = FeatureDistances(kept, tap_widths(model), student_widths)

    @property
    def projections(self) -> nn.ModuleDict:
        """All that learns."""
        return self.distances.projections

    def train(self, mode: bool = True) -> "Teacher":
        """The teacher is never in training mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(
        self, image: torch.Tensor, output: NetworkOutput, targets: Targets
    ) -> dict[str, torch.Tensor]:
        """The losses of `weights`, unweighted float32 scalars.

        `features` is the sum over the taps of TAP_WEIGHTS x `distance`, whatever else is taught.

        Args:
            image: [N, 3, H, W] normalised RGB, what the student saw.
            output: the student's answers and taps, of any precision.
            targets: the labels: where the vehicles are, and where nobody says.
        """
        found = output.detections
        noised = None
        if "queries" in self.weights and isinstance(found, QueryDetections) and found.denoising:
            noised = found.denoising.queries
        with torch.no_grad():
            taught = self.teacher(image) if noised is None else self.teacher(image, noised)
        answers = taught if isinstance(taught, NetworkOutput) else None
        losses = self._features(output.features, answers.features if answers else taught, targets)
        if answers and "masks" in self.weights:
            losses["masks"] = mask_divergence(output.drivable, answers.drivable)
            losses["masks"] = losses["masks"] + mask_divergence(output.lane, answers.lane)
        if answers and "vehicles" in self.weights:
            assert isinstance(found, DenseDetections)
            cells = found.logits.shape[1]
            counted = ~targets.has_boxes[:, None].expand(-1, cells)
            losses["vehicles"] = vehicle_divergence(found, answers.detections, counted, counted)
        if "queries" in self.weights:
            losses["queries"] = self._queries(found, answers)
        return losses

    @staticmethod
    def _queries(
        found: DenseDetections | QueryDetections, answers: NetworkOutput | None
    ) -> torch.Tensor:
        """The mean over the student's layers of how far each is from the teacher's, its last one
        from the teacher's last."""
        if not isinstance(found, QueryDetections) or not found.denoising:
            return found.logits.sum() * 0
        assert answers is not None
        assert isinstance(answers.detections, QueryDetections)
        assert answers.detections.denoising is not None
        own, theirs = found.denoising.layers, answers.detections.denoising.layers
        aims = [theirs[min(layer, len(theirs) - 1)] for layer in range(len(own))]
        aims[-1] = theirs[-1]
        # Far-off copies are to be rejected: their boxes are nowhere.
        used, near = found.denoising.queries.used, found.denoising.queries.box >= 0
        pairs = zip(own, aims, strict=True)
        return torch.stack([vehicle_divergence(*pair, used, near) for pair in pairs]).mean()

    def _features(
        self, own: Mapping[str, torch.Tensor], taught: Mapping[str, torch.Tensor], targets: Targets
    ) -> dict[str, torch.Tensor]:
        zero = torch.zeros((), device=targets.boxes.device)
        losses = {name: zero for name in self.weights if name in ("features", "foreground")}
        found = self.distances(own, taught)
        for tap, weight in TAP_WEIGHTS.items():
            apart = found[tap]
            losses["features"] = losses["features"] + weight * apart.mean()
            if "foreground" in losses and tap in ENCODER_TAPS:
                inside = (foreground(targets, *apart.shape[1:]) * apart).sum()
                losses["foreground"] = losses["foreground"] + weight * inside
        return losses


def decayed(step: int, steps: int, decay: float) -> float:
    """Factor of the distance's weight at a step of a run: 1, and at the end a cosine down to 0.

    Args:
        decay: share of the steps that the cosine takes.
    """
    left = 1 - step / steps
    return 1.0 if left >= decay else (1 - math.cos(math.pi * left / decay)) / 2


def load_teacher(path: Path, lessons: Lessons, student: ModelSpec) -> Teacher:
    """The teacher of checkpoint `path` for a student of that spec.

    Raises UserError if it is no checkpoint, or cannot give these lessons to that student.
    """
    spec, model = load_spec(path), load_checkpoint(path)
    teacher_dense, student_dense = _is_dense(spec), _is_dense(student)
    if lessons.vehicles and not (teacher_dense and student_dense):
        raise UserError(
            "distillation.vehicles: only a dense head learns vehicles from a dense head, and "
            f"{path if student_dense else student.name} has a query decoder"
        )
    if lessons.queries and (teacher_dense or student_dense):
        raise UserError(
            "distillation.queries: only a query decoder learns from a query decoder, and "
            f"{path if teacher_dense else student.name} has a dense head"
        )
    if (lessons.vehicles or lessons.queries) and spec.classes != student.classes:
        raise UserError(
            f"distillation: {path} knows the classes {', '.join(spec.classes)}, "
            f"{student.name} {', '.join(student.classes)}; only features and masks can be taught"
        )
    return Teacher(model, lessons, kept_channels(student, spec), _widths(student))


def _is_dense(spec: ModelSpec) -> bool:
    with torch.device("meta"):
        return any(isinstance(module, DenseDetectionHead) for module in spec.build().modules())


def kept_channels(student: ModelSpec, teacher: ModelSpec) -> dict[str, list[int] | None]:
    """Per tap the teacher's channels that the student's are, in order; None if they are not.

    They are if the trunks of both networks descend from one unpruned shape, and the student has no
    channel that the teacher lacks.
    """
    whole_student, whole_teacher = student.unpruned(), teacher.unpruned()
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
        return tap_widths(spec.build())


@torch.no_grad()
def tap_widths(model: nn.Module) -> dict[str, int]:
    """Channels of every tap of a network."""
    trunk = Trunk(model)
    image = torch.zeros(1, 3, 64, 64, device=next(trunk.parameters()).device)
    return {tap: feature.shape[1] for tap, feature in trunk(image).items()}
