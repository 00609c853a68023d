"""Two evaluations of the same images compared: differences, their intervals, verdicts."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from mtc_perception.core.tasks import TASKS
from mtc_perception.metrics.bootstrap import (
    BLOCK_IMAGES,
    CONFIDENCE,
    RESAMPLES,
    Estimate,
    Resamples,
    blocks_of_images,
    difference,
    drive_of,
    mean_over_parts,
    strata_of,
)
from mtc_perception.metrics.equivalence import verdict
from mtc_perception.metrics.estimates import detection_estimates, mask_estimates
from mtc_perception.metrics.figures import ACCURACY, figure_of
from mtc_perception.metrics.masks import MaskCounts
from mtc_perception.metrics.tasks import ImageEvidence
from mtc_perception.pages import render
from mtc_perception.util.differences import refuse_other
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import write_text_atomic
from mtc_perception.util.progress import Count
from mtc_perception.util.provenance import provenance
from offline_compress.evaluation.evaluation_report import TextTable
from offline_compress.evaluation.evidence_file import (
    EVIDENCE_FILE,
    read_attributes,
    read_evidence,
)
from offline_compress.evaluation.metrics_file import RESULT_FILE, read_result

COMPARISON_FILE, PAGE_FILE = "comparison.json", "index.html"
_TEMPLATE = "comparison_page.html.j2"


@dataclass(frozen=True, slots=True, eq=False)
class PairedSet:
    """The images of one data set that both evaluations have, in the order of the first."""

    name: str
    stems: list[str]
    a: list[ImageEvidence]
    b: list[ImageEvidence]
    attributes: list[dict[str, str]]

    def part(self, chosen: Sequence[int]) -> "PairedSet":
        """Some of the images, by their places."""
        return PairedSet(
            self.name,
            [self.stems[i] for i in chosen],
            [self.a[i] for i in chosen],
            [self.b[i] for i in chosen],
            [self.attributes[i] for i in chosen],
        )


def claim_comparison(folder: Path, a: Path, b: Path) -> None:
    """Raise UserError if the folder holds the comparison of two other evaluations."""
    try:
        content = json.loads((folder / COMPARISON_FILE).read_text())
        held = {side: str(Path(content[side]["folder"]).resolve()) for side in ("a", "b")}
    except (OSError, ValueError, KeyError, TypeError):
        return  # nothing, or nothing that could be missed
    refuse_other(folder, held, {"a": str(a.resolve()), "b": str(b.resolve())})


def stated_margins(changes: Sequence[str], margins_points: Mapping[str, float]) -> dict[str, float]:
    """The margins with changes `FIGURE=POINTS`. Raises UserError for one that is none."""
    found = dict(margins_points)
    for change in changes:
        name, _, text = change.partition("=")
        if name not in ACCURACY:
            raise UserError(f"--margin {change}: no such figure; known: {', '.join(ACCURACY)}")
        try:
            points = float(text)
        except ValueError:
            points = math.nan
        if not 0 < points < math.inf:
            raise UserError(f"--margin {change}: {text!r} is no number of points above 0")
        found[name] = points
    return found


def compare(a: Path, b: Path, margins_points: Mapping[str, float], count: Count) -> dict[str, Any]:
    """The comparison of two folders of `mtc-compress evaluate` as JSON; `a` is the reference.

    Every data set alone, each of its conditions, and the mean over several sets. `margins_points`
    say which difference of a figure does not matter. Raises UserError if a folder holds no
    evaluation, or both have no image in common.
    """
    results = read_result(a / RESULT_FILE), read_result(b / RESULT_FILE)
    notes: list[str] = []
    sets = [
        one
        for name, folders in _common_sets((a, b), results).items()
        if (one := _paired(name, *folders, notes)).stems
    ]
    if not sets:
        raise UserError(f"{a} and {b} have no image in common")
    for task in TASKS:
        if (task in results[0]) != (task in results[1]):
            alone, other = ("A", "B") if task in results[0] else ("B", "A")
            notes.append(f"{alone} alone has figures of {task}, {other} does not: not compared")
    groups = [(one.name, [one]) for one in sets]
    groups += [(words, [part]) for one in sets for words, part in _conditions(one)]
    if len(sets) > 1:
        groups.append(("mean over the sets", sets))
    names = [list(one.get("detection", {}).get("classes", {})) for one in results]
    class_names = names[0] if names[0] == names[1] else []
    thresholds = [float(one["asked"]["thresholds"]["score"]) for one in results]
    rows = []
    for number, (name, parts) in enumerate(groups):
        told = partial(_within, count, number, len(groups))
        figures = list(
            _figures(parts, (thresholds[0], thresholds[1]), class_names, margins_points, told)
        )
        images = sum(len(one.stems) for one in parts)
        rows.append({"name": name, "images": images, "figures": figures})
    return {
        "a": _side(a, results[0]),
        "b": _side(b, results[1]),
        "margins_points": dict(margins_points),
        "bootstrap": {
            "resamples": RESAMPLES,
            "confidence": CONFIDENCE,
            "images_per_block": BLOCK_IMAGES,
        },
        "groups": rows,
        "notes": notes,
        **provenance(),
    }


def tables(comparison: Mapping[str, Any]) -> list[TextTable]:
    """One table per group: the figures that have a margin, differences in points."""
    columns = ["figure", "A", "B", "change", "95 % interval", "margin", "B is"]
    return [
        TextTable(
            f"{group['name']}, {group['images']} images",
            columns,
            [[_row(figure) for figure in group["figures"] if figure["margin_points"] is not None]],
        )
        for group in comparison["groups"]
    ]


def terminal_tables(comparison: Mapping[str, Any]) -> Iterator[Table]:
    """The same for the terminal."""
    styles = {"lost": "red", "gained": "green"}
    for one in tables(comparison):
        table = Table(title=one.title, title_justify="left")
        for index, name in enumerate(one.columns):
            table.add_column(name, justify="left" if index in (0, 6) else "right")
        for row in one.sections[0]:
            table.add_row(*row, style=styles.get(row[-1], ""))
        yield table


def write_page(path: Path, comparison: Mapping[str, Any]) -> None:
    """Write the page of a comparison atomically."""
    text = render(__package__ or "", _TEMPLATE, comparison=comparison, tables=tables(comparison))
    write_text_atomic(path, text)


def _common_sets(
    folders: tuple[Path, Path], results: tuple[dict[str, Any], dict[str, Any]]
) -> dict[str, tuple[Path, Path]]:
    """The data sets of both, with the folders that hold what their images say."""
    of_sides = []
    for folder, result in zip(folders, results, strict=True):
        alone = {f"{result['data']['name']}": folder}
        of_sides.append({name: folder / name for name in result.get("sets", {})} or alone)
    first, second = of_sides
    return {name: (folder, second[name]) for name, folder in first.items() if name in second}


def _paired(name: str, a: Path, b: Path, notes: list[str]) -> PairedSet:
    stems_a, evidence_a = read_evidence(a / EVIDENCE_FILE)
    stems_b, evidence_b = read_evidence(b / EVIDENCE_FILE)
    places = {stem: place for place, stem in enumerate(stems_b)}
    both = [place for place, stem in enumerate(stems_a) if stem in places]
    found = PairedSet(
        name,
        [stems_a[i] for i in both],
        [evidence_a[i] for i in both],
        [evidence_b[places[stems_a[i]]] for i in both],
        [read_attributes(a / EVIDENCE_FILE)[i] for i in both],
    )
    if alone := len(stems_a) + len(stems_b) - 2 * len(both):
        notes.append(f"{name}: {alone} images are in one of both only and left out")
    if other := _labelled_otherwise(found.a, found.b):
        notes.append(f"{name}: the labels of {other} images differ")
    return found


def _labelled_otherwise(a: Sequence[ImageEvidence], b: Sequence[ImageEvidence]) -> int:
    """How many of the images have other labels in `b`, of the tasks that both networks do: what one
    lacks is labelled in none of its images."""
    sides = [[_labels(one) for one in side] for side in (a, b)]
    known = [
        {place for one in side for place, label in enumerate(one) if label is not None}
        for side in sides
    ]
    both = known[0] & known[1]
    return sum(any(x[place] != y[place] for place in both) for x, y in zip(*sides, strict=True))


def _labels(evidence: ImageEvidence) -> tuple[int | None, ...]:
    """Objects, and how many pixels of the masks are foreground; None where unlabelled."""

    def foreground(counts: MaskCounts | None) -> int | None:
        return None if counts is None else counts.true_positive + counts.false_negative

    objects = None if evidence.detection is None else evidence.detection.objects
    return objects, foreground(evidence.drivable), foreground(evidence.lane)


def _conditions(one: PairedSet) -> Iterator[tuple[str, PairedSet]]:
    """The images of every condition of a data set, where it has several of a kind."""
    for attribute in sorted({name for known in one.attributes for name in known}):
        values = [known.get(attribute) for known in one.attributes]
        if len(set(values)) == 1:
            continue  # the whole set
        for value in sorted({value for value in values if value is not None}):
            chosen = [place for place, other in enumerate(values) if other == value]
            yield f"{one.name}, {attribute} {value}", one.part(chosen)


def _figures(
    parts: Sequence[PairedSet],
    thresholds: tuple[float, float],
    class_names: Sequence[str],
    margins_points: Mapping[str, float],
    count: Count,
) -> Iterator[dict[str, Any]]:
    """Every figure of images of one or several data sets; of several the mean over them."""
    ends = np.cumsum([0, *(len(one.stems) for one in parts)]).tolist()
    slices = [slice(begin, end) for begin, end in pairwise(ends)]
    sides: list[dict[str, Estimate]] = []
    for side, threshold in zip(("a", "b"), thresholds, strict=True):
        by_name: dict[str, list[tuple[slice, Estimate]]] = {}
        for images, one in zip(slices, parts, strict=True):
            evidence = getattr(one, side)
            estimates = detection_estimates(evidence, threshold, class_names)
            for name, estimate in (estimates | mask_estimates(evidence)).items():
                by_name.setdefault(name, []).append((images, estimate))
        known = [name for name in ACCURACY if name in by_name]
        of_classes = [name for name in by_name if name not in ACCURACY]
        sides.append({name: mean_over_parts(by_name[name]) for name in (*known, *of_classes)})
    a, b = sides
    names_of_both = [name for name in a if name in b]
    names = [one.name for one in parts for _ in one.stems]
    drives = [drive_of(stem) for one in parts for stem in one.stems]
    blocks = blocks_of_images([f"{x}/{y}" for x, y in zip(names, drives, strict=True)])
    resamples = Resamples(blocks, strata_of(drives, blocks, names))
    everything, done = np.ones(ends[-1]), 0

    def tick() -> None:
        nonlocal done
        done += 1
        count(done, len(names_of_both) * len(resamples))

    for name in names_of_both:
        found = difference(a[name], b[name], ends[-1], resamples, tick)
        margin = margins_points.get(figure_of(name)[0].name)
        yield {
            "name": name,
            "a": _number(a[name](everything)),
            "b": _number(b[name](everything)),
            "change": _number(found.change),
            "low": found.low,
            "high": found.high,
            "margin_points": margin,
            "verdict": None if margin is None else verdict(found, margin),
        }


def _within(count: Count, number: int, total: int, done: float, of: float | None) -> None:
    count(number + done / (of or 1), total)


def _side(folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "folder": str(folder),
        **{key: result[key] for key in ("model", "engine")},
        "thresholds": result["asked"]["thresholds"],
        "thresholds_chosen_on": result["asked"].get("thresholds_chosen_on"),
    }


def _row(figure: Mapping[str, Any]) -> list[str]:
    def points(value: float | None) -> str:
        return "" if value is None else f"{100 * value:+.2f}"

    low, high = figure["low"], figure["high"]
    known, owner = figure_of(figure["name"])
    return [
        f"{owner}, {known.label}" if owner else known.title,
        *("undefined" if figure[side] is None else f"{figure[side]:.4f}" for side in ("a", "b")),
        points(figure["change"]),
        "" if low is None else f"{points(low)} to {points(high)}",
        f"{figure['margin_points']:g}",
        figure["verdict"],
    ]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
