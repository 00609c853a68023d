"""What can be evaluated: a bundle on any engine, or a checkpoint in PyTorch."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mtc_perception.bundle import Thresholds
from mtc_perception.engine import Engine, EngineChoice
from mtc_perception.errors import UserError
from mtc_perception.perceiver import Perceiver

CHECKPOINT_THRESHOLDS = Thresholds(score=0.3, drivable=0.5, lane=0.5)


@dataclass(frozen=True, slots=True)
class Subject:
    """A network to evaluate, ready to run."""

    engine: Engine
    engine_reason: str
    thresholds: Thresholds
    max_detections: int
    classes: list[str]
    params: int
    gmacs: float
    identity: dict[str, Any]
    """Name, kind, variant and sha256 of what was evaluated."""


def open_subject(
    path: Path,
    engine: str = "auto",
    precision: str | None = None,
    drivable: float | None = None,
    lane: float | None = None,
) -> Subject:
    """Load a bundle or a checkpoint (its folder or its safetensors file) for evaluation.

    `drivable` and `lane` replace the mask thresholds. Raises UserError with the reason.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; give a bundle or a checkpoint folder")
    changes = {
        name: value for name, value in (("drivable", drivable), ("lane", lane)) if value is not None
    }
    if path.suffix == ".safetensors":
        return _open_checkpoint(path.parent, engine, changes)
    if (path / "model.safetensors").is_file():
        return _open_checkpoint(path, engine, changes)
    return _open_bundle(path, engine, precision, changes)


def _open_checkpoint(folder: Path, engine: str, changes: dict[str, float]) -> Subject:
    if engine not in ("auto", "torch"):
        raise UserError(f"{folder} is a checkpoint: export it first to run it on {engine}")
    from offline_compress.export import MAX_DETECTIONS, count_gmacs, count_parameters
    from offline_compress.models.registry import WEIGHTS_FILE, load_checkpoint, load_spec
    from offline_compress.torch_engine import TorchEngine

    spec, model = load_spec(folder), load_checkpoint(folder)
    return Subject(
        engine=TorchEngine(model, spec.height, spec.width),
        engine_reason="checkpoints run in PyTorch",
        thresholds=CHECKPOINT_THRESHOLDS.model_copy(update=changes),
        max_detections=MAX_DETECTIONS,
        classes=spec.classes,
        params=count_parameters(model),
        gmacs=round(count_gmacs(model, spec.height, spec.width), 3),
        identity={
            "kind": "checkpoint",
            "name": spec.name,
            "sha256": hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest(),
        },
    )


def _open_bundle(
    path: Path, engine: str, precision: str | None, changes: dict[str, float]
) -> Subject:
    # `create_engine` itself refuses a name it does not know.
    perceiver = Perceiver.open(path, cast(EngineChoice, engine), precision=precision)
    manifest = perceiver.bundle.manifest
    variant = perceiver.bundle.variant_for(perceiver.engine.name, precision)
    return Subject(
        engine=perceiver.engine,
        engine_reason=perceiver.engine_reason,
        thresholds=manifest.thresholds.model_copy(update=changes),
        max_detections=manifest.max_detections,
        classes=manifest.classes,
        params=manifest.params,
        gmacs=manifest.gmacs,
        identity={
            "kind": "bundle",
            "name": manifest.name,
            "version": manifest.version,
            "variant": variant,
            "sha256": next(v.sha256 for key, v in manifest.variants.items() if key == variant),
        },
    )
