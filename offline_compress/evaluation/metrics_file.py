"""The result file of an evaluation, `metrics.json`: written by `evaluate`, read by `export`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtc_perception.core.bundle import sha256_hex
from mtc_perception.core.tasks import TASKS
from mtc_perception.metrics.sets import mean_over_sets
from mtc_perception.metrics.tasks import RECOMMENDED, PerceptionMetrics, mean_sweep_json
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import write_text_atomic
from mtc_perception.util.progress import Count
from mtc_perception.util.provenance import portable, provenance
from offline_compress.evaluation.accuracy import Evaluation
from offline_compress.evaluation.subject import Subject

RESULT_FILE = "metrics.json"
_SAME = (
    ("model", "kind"),
    ("model", "name"),
    ("model", "label"),
    ("engine", "name"),
    ("engine", "precision"),
    ("data", "name"),
    ("data", "split"),
    ("data", "limit"),
    ("asked", "model"),
    ("asked", "data"),
    ("asked", "thresholds"),
    ("asked", "max_detections"),
)
"""What two results must share for one to replace the other."""


def describe(
    subject: Subject,
    data: Sequence[Path],
    split: str,
    limit: int | None,
    model: Path | None = None,
) -> dict[str, Any]:
    """The part of a result that says what was evaluated on what; no `limit` is written as 0.

    `data` are the roots of one or several data sets; `model` is where the subject lies, if that is
    to be told.
    """
    return {
        "model": subject.identity,
        "engine": {
            "name": subject.engine.name,
            "precision": subject.engine.precision,
            "device": subject.engine.device,
            "why": subject.engine_reason,
        },
        "data": {
            "name": ", ".join(root.resolve().name for root in data),
            "split": split,
            "limit": limit or 0,
        },
        "asked": {
            "model": None if model is None else portable(model),
            "data": ", ".join(map(portable, data)),
            "thresholds": subject.thresholds.model_dump(),
            "thresholds_chosen_on": subject.thresholds_chosen_on,
            "max_detections": subject.max_detections,
        },
    }


def result_folder(description: dict[str, Any], out: Path | None) -> Path:
    """`out`, or by default a folder of its own for every network, engine and data set.

    Raises UserError if the folder holds the result of something else.
    """
    model, engine, data = (description[key] for key in ("model", "engine", "data"))
    if out is None:
        out = Path("out", "evaluate", f"{model['label']}_{engine['name']}_{engine['precision']}")
        out /= f"{data['name'].replace(', ', '+')}_{data['split']}"
        if data["limit"]:
            out = out.with_name(f"{out.name}_first{data['limit']}")
    try:
        old = json.loads((out / RESULT_FILE).read_text())
        kept = [(key, name, old.get(key, {}).get(name)) for key, name in _SAME]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return out  # nothing, or nothing that could be missed
    for key, name, value in kept:
        if value is not None and value != description[key][name]:
            what = name if key == "asked" else key
            raise UserError(
                f"{out} holds the result of another {what} ({value}, not "
                f"{description[key][name]}); give another --out"
            )
    return out


def result_json(
    subject: Subject,
    evaluation: Evaluation,
    speed: dict[str, Any] | None,
    description: dict[str, Any],
    count: Count = lambda _done, _total: None,
) -> dict[str, Any]:
    """The metric JSON of an evaluation, with thresholds swept and everything it depended on.

    `speed` comes from `measure_speed`, None leaves it out; `count` is told images scored, each
    attribute anew.
    """
    values = {
        attribute: dict(sorted(parts.items()))
        for attribute, parts in sorted(evaluation.conditions.items())
    }
    parts = [evaluation.metrics, *(part for named in values.values() for part in named.values())]
    total = sum(part.images for part in parts)
    done = 0

    def figures(part: PerceptionMetrics) -> dict[str, Any]:
        nonlocal done
        found = part.to_json()
        done += part.images
        count(done, total)
        return found

    result = {
        **figures(evaluation.metrics),
        **_costs(subject, speed),
        "sweep": evaluation.metrics.sweep_json(),
    }
    if values:
        result["conditions"] = {
            attribute: {value: figures(part) for value, part in named.items()}
            for attribute, named in values.items()
        }
    data = description["data"] | {
        "images": len(evaluation.frames),
        "unreadable": sum(frame.unreadable for frame in evaluation.frames),
    }
    return result | description | {"data": data} | provenance()


def mean_result_json(
    subject: Subject,
    evaluations: Mapping[str, Evaluation],
    results: Mapping[str, dict[str, Any]],
    speed: dict[str, Any] | None,
    description: dict[str, Any],
) -> dict[str, Any]:
    """The metric JSON of evaluations on several data sets, given each one's own by its name.

    Every figure is the mean over the sets (`mean_over_sets`), the best thresholds are those of the
    mean curves. Of one set alone: its own.
    """
    first, *others = results.values()
    if not others:
        return first
    parts = {
        name: {key: one[key] for key in (*TASKS, "conditions", "data") if key in one}
        for name, one in results.items()
    }
    counts = {
        key: sum(one["data"][key] for one in results.values()) for key in ("images", "unreadable")
    }
    return {
        **mean_over_sets(parts),
        **_costs(subject, speed),
        "sweep": mean_sweep_json([one.metrics for one in evaluations.values()]),
        **description,
        "data": description["data"] | counts,
        **provenance(),
    }


def _costs(subject: Subject, speed: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "params": subject.params,
        "gmacs": subject.gmacs,
        **({"latency_ms": speed["latency_ms"]["p50"], "speed": speed} if speed else {}),
    }


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result JSON atomically; its folder must exist."""
    write_text_atomic(path, json.dumps(result, indent=2) + "\n")


def read_result(path: Path) -> dict[str, Any]:
    """A result file. Raises UserError if it cannot be read or is none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict) or not content.keys() & TASKS:
        raise UserError(f"{path} is no metrics file of `mtc-compress evaluate`")
    return content


def metrics_of_checkpoint(path: Path, checkpoint: Path) -> dict[str, Any]:
    """A result file, if it is of the checkpoint in folder `checkpoint`. Raises UserError if not."""
    from offline_compress.models.registry import WEIGHTS_FILE

    result = read_result(path)
    model = result.get("model", {})
    advice = f"run `mtc-compress evaluate {checkpoint}` first"
    if model.get("kind") != "checkpoint":
        raise UserError(f"{path} is not of a checkpoint: {advice}")
    weights = checkpoint / WEIGHTS_FILE
    if weights.is_file() and sha256_hex(weights.read_bytes()) != model.get("sha256"):
        raise UserError(f"{path} is of other weights than {checkpoint} now holds: {advice}")
    return result


def data_words(result: dict[str, Any]) -> str:
    """What a result was measured on."""
    data = result["data"]
    return f"{data['name']} {data['split']}, {data['images']} images"


def accuracy(result: dict[str, Any]) -> dict[str, Any]:
    """The labelled tasks' figures of a result."""
    return {task: result[task] for task in TASKS if task in result}


def recommended_thresholds(result: dict[str, Any]) -> dict[str, float]:
    """The best thresholds of a result (`RECOMMENDED`), for the tasks that were labelled."""
    sweep = result.get("sweep", {})
    return {
        name: sweep[task]["best_threshold"][figure]
        for name, (task, figure) in RECOMMENDED.items()
        if figure in sweep.get(task, {}).get("best_threshold", {})
    }
