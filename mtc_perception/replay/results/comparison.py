"""What changed from one run to another: figures, and the images they changed in."""

import json
import math
from collections import deque
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtc_perception.core.tasks import TASKS, Task
from mtc_perception.metrics.bootstrap import (
    LEAST_BLOCKS,
    Difference,
    Estimate,
    Resamples,
    difference,
)
from mtc_perception.metrics.figures import lower_is_better
from mtc_perception.metrics.tasks import ImageEvidence
from mtc_perception.replay.records.image_figures import figures
from mtc_perception.replay.records.record import FrameRecord, read_frames, read_times
from mtc_perception.replay.results.record_estimates import (
    accuracy_estimates,
    latency_estimates,
    seconds_of,
    stability_estimates,
)
from mtc_perception.replay.results.run_result import (
    classes_of,
    read_result,
    stream_folder,
    tasks_of,
)
from mtc_perception.replay.stream.task import StreamResult
from mtc_perception.util.differences import refuse_other
from mtc_perception.util.errors import UserError
from mtc_perception.util.progress import Count

COMPARISON_FILE = "comparison.json"
MOST_IMAGES = 10
"""Per task, of those that got better and of those that got worse."""


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """One image of one run."""

    stream: str
    record: FrameRecord
    latency_ms: Mapping[str, float] | None
    timed: bool = True
    """Its stamp says when it was taken; those of an image folder's only count."""


@dataclass(frozen=True, slots=True, eq=False)
class Paired:
    """The images that two runs have in common, in the order of the first."""

    a: list[Image]
    b: list[Image]
    only_a: int
    only_b: int


def claim_comparison(folder: Path, run_a: Path, run_b: Path) -> None:
    """Raise UserError if the folder holds the comparison of two other runs."""
    try:
        content = json.loads((folder / COMPARISON_FILE).read_text(encoding="utf-8"))
        held = {side: str(Path(content[side]["run"]).resolve()) for side in ("a", "b")}
    except (OSError, ValueError, KeyError, TypeError):
        return  # nothing, or nothing that could be missed
    refuse_other(folder, held, {"a": str(run_a.resolve()), "b": str(run_b.resolve())})


def compare_runs(run_a: Path, run_b: Path, count: Count) -> dict[str, Any]:
    """The comparison of two runs as JSON. Raises UserError if they have no image in common."""
    result_a, result_b = read_result(run_a), read_result(run_b)
    paired = pair_images(list(_images(run_a, result_a)), list(_images(run_b, result_b)))
    if not paired.a:
        names = [
            ", ".join(stream["name"] for stream in result["streams"])
            for result in (result_a, result_b)
        ]
        raise UserError(
            f"the runs have no image in common: {run_a} is of {names[0]}, {run_b} of {names[1]}"
        )
    against, evidence_a, evidence_b = _evidence(paired, result_a, result_b)
    notes = list(_notes(paired, result_a, result_b, against))
    resamples = Resamples(
        seconds_of(
            [image.stream for image in paired.a],
            [image.record.stamp_ns if image.timed else None for image in paired.a],
        )
    )
    if not resamples:
        notes.append(
            f"too few images for intervals: they take {LEAST_BLOCKS} s of a recording, or "
            f"{LEAST_BLOCKS} images of a folder"
        )
    full_scores = result_a["score_floor"] == result_b["score_floor"]
    same_mode = result_a["mode"] == result_b["mode"]
    both = tasks_of(result_a) & tasks_of(result_b)
    names = classes_of(result_a)
    class_names = names if names == classes_of(result_b) else []

    def of(images: Sequence[Image], evidence: Sequence[ImageEvidence | None]) -> _Estimates:
        records = [image.record for image in images]
        return (
            accuracy_estimates(records, evidence, full_scores, class_names)
            | stability_estimates(records, both)
            | (latency_estimates([image.latency_ms for image in images]) if same_mode else {})
        )

    estimates_a, estimates_b = of(paired.a, evidence_a), of(paired.b, evidence_b)
    return {
        "a": _side(run_a, result_a),
        "b": _side(run_b, result_b),
        "against": against,
        "images": len(paired.a),
        "only_a": paired.only_a,
        "only_b": paired.only_b,
        "different_answers": sum(
            a.record.digest != b.record.digest for a, b in zip(paired.a, paired.b, strict=True)
        ),
        "figures": _compared(resamples, len(paired.a), estimates_a, estimates_b, count),
        "changed_images": _changed(paired),
        "notes": notes,
    }


_Estimates = dict[str, Estimate]


def pair_places(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Where in `a` and `b` the same is, in the order of `a`; of equal ones, first with first."""
    there: dict[Hashable, deque[int]] = {}
    for place, one in enumerate(b):
        there.setdefault(one, deque()).append(place)
    return [(place, found.popleft()) for place, one in enumerate(a) if (found := there.get(one))]


def pair_images(a: Sequence[Image], b: Sequence[Image]) -> Paired:
    """Images of one stream and stamp."""
    keys = ([(image.stream, image.record.stamp_ns) for image in side] for side in (a, b))
    places = pair_places(*keys)
    return Paired(
        [a[place] for place, _ in places],
        [b[place] for _, place in places],
        len(a) - len(places),
        len(b) - len(places),
    )


def _images(run: Path, result: Mapping[str, Any]) -> Iterator[Image]:
    for stream in result["streams"]:
        folder = stream_folder(run, stream)
        times = dict(read_times(folder))
        timed = StreamResult.read(folder).kind != "images"
        for record in read_frames(folder):
            yield Image(stream["name"], record, times.get(record.index), timed)


def _evidence(
    paired: Paired, a: Mapping[str, Any], b: Mapping[str, Any]
) -> tuple[str | None, list[ImageEvidence | None], list[ImageEvidence | None]]:
    """What accuracy is measured against, and the evidence of both runs.

    Against labels where both runs have them, else against a reference network that both agree with;
    None, and no evidence, where there is neither.
    """
    for name, field in (("ground truth", "evidence"), ("reference", "agreement")):
        sides = [[getattr(image.record, field) for image in side] for side in (paired.a, paired.b)]
        both = [one is not None and other is not None for one, other in zip(*sides, strict=True)]
        if not any(both) or (field == "agreement" and not _same_reference(a, b)):
            continue
        evidence_a, evidence_b = (
            [one if known else None for one, known in zip(side, both, strict=True)]
            for side in sides
        )
        return name, evidence_a, evidence_b
    nothing: list[ImageEvidence | None] = [None] * len(paired.a)
    return None, nothing, nothing


def _same_reference(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return bool(a["reference"] and b["reference"]) and (
        a["reference"]["sha256"] == b["reference"]["sha256"]
    )


def _notes(
    paired: Paired, a: Mapping[str, Any], b: Mapping[str, Any], against: str | None
) -> Iterator[str]:
    """What a reader of the figures has to know."""
    both = tasks_of(a) & tasks_of(b)
    for words, result in (("A", a), ("B", b)):
        if lacking := [task for task in TASKS if task not in tasks_of(result)]:
            yield f"the network of run {words} has no {', no '.join(lacking)}"
    if against is None:
        yield "no labels in both runs: accuracy is not compared"
    if a["score_floor"] != b["score_floor"]:
        yield "detections are known down to different scores: no average precision is compared"
    if a["mode"] != b["mode"]:
        yield f"run A is {a['mode']}, run B {b['mode']}: times are not compared"
    elif a["machine"] != b["machine"] or a["device"] != b["device"]:
        yield "the runs are of different machines: so are their times"
    places = {stream["name"]: stream["path"] for stream in b["streams"]}
    moved = [
        f"{stream['name']} is {stream['path']} in run A and {places[stream['name']]} in run B"
        for stream in a["streams"]
        if places.get(stream["name"], stream["path"]) != stream["path"]
    ]
    if moved:
        more = f" (and {len(moved) - 1} more)" if len(moved) > 1 else ""
        yield f"streams are joined by name: {moved[0]}{more}"
    different = sum(
        one.record.evidence is not None
        and other.record.evidence is not None
        and _labels(one.record, both) != _labels(other.record, both)
        for one, other in zip(paired.a, paired.b, strict=True)
    )
    if different:
        yield f"the labels of {different} images differ between the runs"


def _labels(record: FrameRecord, tasks: Collection[Task]) -> tuple[Any, ...]:
    """Boxes, and foreground pixels of the masks, of `tasks`; None where unlabelled."""
    evidence = record.evidence
    assert evidence is not None
    counts = {"drivable": evidence.drivable, "lane": evidence.lane}
    masks = [one for task, one in counts.items() if task in tasks]
    return (
        None
        if record.truth_boxes is None or "detection" not in tasks
        else record.truth_boxes.tolist(),
        *(one and one.true_positive + one.false_negative for one in masks),
    )


def _compared(
    resamples: Resamples, images: int, a: _Estimates, b: _Estimates, count: Count
) -> list[dict[str, Any]]:
    names = [name for name in a if name in b]
    done, total = 0, len(names) * len(resamples)

    def tick() -> None:
        nonlocal done
        done += 1
        count(done, total)

    rows = []
    everything = np.ones(images)
    for name in names:
        found = difference(a[name], b[name], images, resamples, tick)
        rows.append(
            {
                "name": name,
                "a": _number(a[name](everything)),
                "b": _number(b[name](everything)),
                "change": _number(found.change),
                "low": found.low,
                "high": found.high,
                "verdict": _verdict(name, found),
            }
        )
    return rows


def _verdict(name: str, found: Difference) -> str:
    if found.low is None or found.high is None:
        return "too few images"
    if found.low <= 0.0 <= found.high:
        return "no difference"
    return "worse" if (found.change > 0) == lower_is_better(name) else "better"


def _changed(paired: Paired) -> list[dict[str, Any]]:
    """The images whose figures changed most, per task the worse ones first."""
    rows = []
    both = list(zip(paired.a, paired.b, strict=True))
    values = [(figures(one.record), figures(other.record)) for one, other in both]
    for task in TASKS:
        changes = [
            (after - before, place)
            for place, (a, b) in enumerate(values)
            if (before := a[task]) is not None and (after := b[task]) is not None
        ]
        ranked = sorted(changes)
        worst = [one for one in ranked if one[0] < 0][:MOST_IMAGES]
        best = [one for one in ranked if one[0] > 0][: -MOST_IMAGES - 1 : -1]
        for change, place in [*worst, *best]:
            one, other = both[place]
            rows.append(
                {
                    "task": task,
                    "stream": one.stream,
                    "stamp_ns": one.record.stamp_ns,
                    "index_a": one.record.index,
                    "index_b": other.record.index,
                    "a": values[place][0][task],
                    "b": values[place][1][task],
                    "change": change,
                }
            )
    return rows


def _side(run: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "run": str(run),
        "bundle": result["bundle"]["name"],
        "sha256": result["bundle"]["sha256"],
        "engine": result["engine"],
        "precision": result["precision"],
        "mode": result["mode"],
        "results_sha256": result["results_sha256"],
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
