"""What can be evaluated: a bundle on any engine, or a checkpoint in PyTorch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mtc_perception.core.bundle import Bundle, Thresholds, read_bundle, sha256_hex
from mtc_perception.core.class_map import ClassMap
from mtc_perception.core.engine import Engine, EngineChoice
from mtc_perception.core.input_size import Fit
from mtc_perception.core.tasks import TASKS, Task
from mtc_perception.engines.open import open_engine
from mtc_perception.util.errors import UserError

CHECKPOINT_THRESHOLDS = Thresholds(score=0.3, drivable=0.5, lane=0.5)


@dataclass(frozen=True, slots=True)
class Subject:
    """A network to evaluate, ready to run."""

    engine: Engine
    engine_reason: str
    thresholds: Thresholds
    max_detections: int
    tasks: Sequence[Task]
    class_map: ClassMap
    fit: Fit
    params: int
    gmacs: float
    thresholds_chosen_on: str
    """In words; `neutral` of a checkpoint, `by hand` where any was given."""
    identity: dict[str, Any]
    """Name, kind, label (from the path), variant and sha256 of what was evaluated."""


def open_subject(
    path: Path,
    engine: str = "auto",
    precision: str | None = None,
    drivable: float | None = None,
    lane: float | None = None,
    score: float | None = None,
    max_detections: int | None = None,
) -> Subject:
    """Load a bundle or a checkpoint (its folder or its safetensors file) for evaluation.

    `score`, `drivable` and `lane` replace the thresholds; `max_detections` boxes of an image count,
    of a checkpoint also more than a bundle yields. A checkpoint runs on the GPU where there is one.
    Raises UserError with the reason.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; give a bundle or a checkpoint folder")
    given = {"score": score, "drivable": drivable, "lane": lane}
    changes = {name: value for name, value in given.items() if value is not None}
    if folder := checkpoint_folder(path):
        return _open_checkpoint(folder, engine, precision, changes, max_detections)
    return _open_bundle(path, engine, precision, changes, max_detections)


def checkpoint_folder(path: Path) -> Path | None:
    """The folder of a checkpoint, given it or its safetensors file; None if it is none."""
    folder = path.parent if path.suffix == ".safetensors" else path
    return folder if (folder / "model.safetensors").is_file() else None


def _open_checkpoint(
    folder: Path,
    engine: str,
    precision: str | None,
    changes: dict[str, float],
    max_detections: int | None,
) -> Subject:
    if engine not in ("auto", "torch"):
        raise UserError(f"{folder} is a checkpoint: export it first to run it on {engine}")
    if precision not in (None, "fp32"):
        raise UserError(f"{folder} is a checkpoint: it is evaluated in fp32, not {precision}")
    import torch

    from offline_compress.evaluation.torch_engine import TorchEngine
    from offline_compress.export import MAX_DETECTIONS, count_gmacs, count_parameters
    from offline_compress.models.registry import WEIGHTS_FILE, load_checkpoint, load_spec

    spec, model = load_spec(folder), load_checkpoint(folder)
    gmacs = count_gmacs(model, spec.height, spec.width)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    count = max_detections or MAX_DETECTIONS
    return Subject(
        engine=TorchEngine(model, spec.height, spec.width, count),
        engine_reason="checkpoints run in PyTorch",
        thresholds=CHECKPOINT_THRESHOLDS.model_copy(update=changes),
        max_detections=count,
        tasks=TASKS,
        class_map=spec.class_map,
        fit=spec.fit,
        params=count_parameters(model),
        gmacs=round(gmacs, 3),
        thresholds_chosen_on="by hand" if changes else "neutral",
        identity={
            "kind": "checkpoint",
            "name": spec.name,
            "label": "_".join(folder.resolve().parts[-2:]),
            "sha256": sha256_hex((folder / WEIGHTS_FILE).read_bytes()),
        },
    )


def _open_bundle(
    path: Path,
    wanted: str,
    precision: str | None,
    changes: dict[str, float],
    max_detections: int | None,
) -> Subject:
    # `open_engine` itself refuses a name it does not know.
    bundle = read_bundle(path)
    engine, variant, why, _ = open_engine(bundle, cast(EngineChoice, wanted), precision)
    manifest = bundle.manifest
    if max_detections and max_detections > manifest.max_detections:
        raise UserError(
            f"{path} yields {manifest.max_detections} detections at most, not {max_detections}"
        )
    return subject_of(
        bundle,
        variant,
        engine,
        why,
        manifest.thresholds.model_copy(update=changes),
        max_detections,
        "by hand" if changes else manifest.thresholds_chosen_on or "unknown data",
    )


def subject_of(
    bundle: Bundle,
    variant: str,
    engine: Engine,
    why: str,
    thresholds: Thresholds,
    max_detections: int | None = None,
    thresholds_chosen_on: str = "neutral",
) -> Subject:
    """A variant of a bundle that `engine` has loaded; `why` that engine, in words."""
    manifest = bundle.manifest
    return Subject(
        engine=engine,
        engine_reason=why,
        thresholds=thresholds,
        max_detections=max_detections or manifest.max_detections,
        tasks=manifest.tasks,
        class_map=manifest.class_map,
        fit=manifest.input.fit,
        params=manifest.params,
        gmacs=manifest.gmacs,
        thresholds_chosen_on=thresholds_chosen_on,
        identity={
            "kind": "bundle",
            "name": manifest.name,
            "label": bundle.path.resolve().name.split(".mtc")[0],
            "version": manifest.version,
            "variant": variant,
            "sha256": next(v.sha256 for key, v in manifest.variants.items() if key == variant),
        },
    )
