"""A study carried out: every network made and judged in its folder, then the tables.

The same call goes on where it was stopped. Folds are on their own: two processes may each carry out
some of them in one folder.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from mtc_perception.core.bundle import sha256_hex
from mtc_perception.core.engine import Network as NetworkGraph
from mtc_perception.util.differences import differences
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import write_text_atomic
from mtc_perception.util.locking import held
from mtc_perception.util.progress import Count, NamedCount
from mtc_perception.util.provenance import provenance
from offline_compress.evaluation import latency
from offline_compress.evaluation.evidence_file import read_attributes, read_evidence
from offline_compress.export import deployed
from offline_compress.models.registry import ModelSpec
from offline_compress.pipeline.row import ENGINES
from offline_compress.pipeline.stages import decide, refuse_losses, run_stages
from offline_compress.recipe.recipe import Recipe
from offline_compress.study.comparison import (
    Answers,
    Judged,
    Part,
    compare,
    cross_fitted,
    parts_of,
    pooled,
)
from offline_compress.study.folds import (
    HELD_OUT,
    Fold,
    fold_recipe,
    folds_of,
    judged_sets,
    refuse_leaks,
    refuse_seen,
)
from offline_compress.study.networks import (
    EVIDENCE,
    Network,
    named_sources,
    networks_of,
    read_judged,
)
from offline_compress.study.study import TEACHER, Study, load_study
from offline_compress.training.accelerator import start_accelerator

SCHEMA = 1
STUDY_FILE, RESULT_FILE, LATENCY_FILE = "study.yaml", "result.json", "latency.json"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A study in its folder, or some of its folds and rows."""

    study: Study
    out: Path
    drives: list[str]
    rows: list[str]
    reference: str
    """The row that the tables compare the others with."""

    @classmethod
    def of(
        cls,
        study: Study,
        out: Path,
        drives: Sequence[str] = (),
        rows: Sequence[str] = (),
        reference: str | None = None,
    ) -> "Chosen":
        """None given: all, and the study's reference. The teacher is always there, as all others
        need it.

        Raises UserError for a name that the study does not have.
        """
        for kind, known, given in (
            ("fold", list(study.held_out.drives), drives),
            ("row", study.row_names, rows),
            ("row", study.row_names, [reference] if reference else []),
        ):
            if unknown := [name for name in given if name not in known]:
                raise UserError(f"no {kind} {unknown[0]} in the study: {', '.join(known)}")
        folds = [drive for drive in study.held_out.drives if drive in drives or not drives]
        chosen = {TEACHER, *rows} if rows else set(study.row_names)
        names = [row for row in study.row_names if row in chosen]
        return cls(study, out, folds, names, reference or study.reference)

    def networks(self) -> list[Network]:
        """All that is to be made, fold by fold, a fold's teacher first. Raises UserError."""
        folds = [fold for fold in folds_of(self.study.held_out) if fold.drive in self.drives]
        known = [one for fold in folds for one in networks_of(self.study, fold, self.out)]
        starts = {path for one in known if one.row in self.rows for path in one.starts_from}
        # What a row recovers may be the pruned network of a row that is not asked for.
        return [one for one in known if one.row in self.rows or one.checkpoint in starts]


def with_names(study: Study) -> dict[str, Any]:
    """The study as JSON, data sets by their names: machines differ in where they lie."""
    content = study.model_dump(mode="json")
    content["held_out"]["root"] = study.held_out.root.resolve().name
    content["evaluate_on"] = named_sources(study.evaluate_on)
    return content


def claim(study: Study, out: Path) -> None:
    """Make the folder that of the study. Raises UserError if it is that of another one, or of other
    margins: what is equivalent is said before anything is known."""
    path, content = out / STUDY_FILE, with_names(study)
    if path.is_file():
        before = with_names(load_study(path))
        fixed = ("name", "held_out", "reference", "margins")
        changes = differences(*({key: one[key] for key in fixed} for one in (before, content)))
        if changes:
            raise UserError(
                f"{out} holds a study with other terms: {changes[0]}; give another --out"
            )
    elif out.exists() and any(not one.name.startswith(".") for one in out.iterdir()):
        raise UserError(f"{out} is not empty and holds no study; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, yaml.safe_dump(content, sort_keys=False))


def run_networks(
    chosen: Chosen, threads: int | None, redo: bool, say: Callable[[str], None]
) -> None:
    """Make and judge the chosen networks. Raises UserError, also where a finished stage is of
    another recipe and not to be done again (`redo`), and Interrupted after a signal."""
    study = chosen.study
    accelerator = start_accelerator("fp32", 1)
    if accelerator.num_processes > 1:
        raise UserError("a study is for one process; others may carry out other folds: --fold")
    if threads:
        torch.set_num_threads(threads)
    networks = to_make(chosen.networks())
    for fold in folds_of(study.held_out):
        if rows := {one.row for one in networks if one.drive == fold.drive}:
            refuse_leaks(study, fold, _recipes(study, fold, rows))
    for number, network in enumerate(networks, 1):
        with held(network.folder.parent):
            if not redo:
                refuse_losses(network.stages, network.folder)
            network.folder.mkdir(exist_ok=True)
            say(f"{number}/{len(networks)} {network.name}")
            run_stages(network.stages, network.folder, say)


def _recipes(study: Study, fold: Fold, rows: Collection[str]) -> list[Recipe]:
    """That of the study and those of its `rows`, in one fold."""
    changes = [row.set for row in study.rows if row.name in rows]
    return [fold_recipe(study, fold, one) for one in ({}, *changes)]


def to_make(networks: Sequence[Network]) -> list[Network]:
    """Those that are not on record, and what they start from, in order.

    Raises UserError if one starts from a network that is on record without its weights.
    """
    needed: list[Network] = []
    for network in reversed(networks):
        after = next((one for one in needed if network.checkpoint in one.starts_from), None)
        recorded = network.judging is not None and network.judging.on_record()
        if recorded and after:
            raise UserError(
                f"{network.folder} holds no weights, only what was judged, and {after.name} starts "
                f"from them: delete {network.folder.parent} to make the whole fold again"
            )
        if not recorded if network.judging else after:
            needed.insert(0, network)
    return needed


def missing(networks: Sequence[Network]) -> list[Network]:
    """Those that are not judged yet, or not as the study says now."""
    return [
        one
        for one in networks
        if (judging := one.judging)
        and not (judging.on_record() or decide(judging, one.folder).skip)
    ]


def plan(chosen: Chosen) -> dict[str, Any]:
    """What is to be done: stages with their training samples, and the images that are judged.

    Raises UserError if a checkpoint to begin with is missing or has seen what is reported.
    """
    study = chosen.study
    images: dict[str, dict[str, int]] = {}
    for fold in folds_of(study.held_out):
        if fold.drive in chosen.drives:
            recipe = fold_recipe(study, fold)
            refuse_seen(study, _recipes(study, fold, chosen.rows))
            sets = judged_sets(study, fold, recipe.class_map)
            images[fold.drive] = {name: len(samples) for name, samples in sets.items()}
    return {
        "images": images,
        "networks": [
            {
                "name": network.name,
                "stages": {stage.name: getattr(stage, "samples", 0) for stage in network.stages},
                "judged": sum(images[network.drive].values()) if network.judging else 0,
            }
            for network in chosen.networks()
        ],
    }


def why_no_tables(chosen: Chosen) -> str:
    """What a part of a study lacks for tables of its own; empty if nothing."""
    if chosen.reference not in chosen.rows:
        return f"tables need the reference: --row {chosen.reference}"
    return ""


def tables(chosen: Chosen, count: NamedCount) -> dict[str, Any]:
    """The result of the chosen networks, all of which are judged. Raises UserError if one is not,
    or if the reference is none of the rows."""
    study = chosen.study
    networks = chosen.networks()
    if todo := missing(networks):
        raise UserError(f"{todo[0].name} is not judged yet, and {len(todo) - 1} more")
    if reason := why_no_tables(chosen):
        raise UserError(reason)
    answers = answers_on_record(study, networks)
    limits = {
        row: {seed: cross_fitted(one[HELD_OUT]) for seed, one in seeds.items()}
        for row, seeds in answers.items()
    }
    work: list[tuple[Part, dict[str, list[list[Judged]]]]] = []
    for name in (HELD_OUT, *study.further_sets):
        rows = {
            row: [judged_on(name, one, limits[row][seed]) for seed, one in seeds.items()]
            for row, seeds in answers.items()
        }
        first = next(iter(answers[chosen.reference].values()))[name]
        title = study.held_out.root.resolve().name if name == HELD_OUT else name
        work += [(part, rows) for part in parts_of(title, first if name == HELD_OUT else first[:1])]
    done, total, lines = 0, len(work) * len(answers), []

    def tick() -> None:
        nonlocal done
        done += 1
        count("resampling", done, total)

    for part, rows in work:
        lines.append(compare(part, rows, chosen.reference, study.margins, tick))
    return {
        "schema": SCHEMA,
        "name": study.name,
        "study": with_names(study),
        "folds": chosen.drives,
        "reference": chosen.reference,
        "margins_points": dict(study.margins),
        "rows": {row: _about(study, row, networks, limits[row], chosen.out) for row in answers},
        "lines": lines,
        "latency_conditions": latency.conditions(),
        **provenance(),
    }


def measure_latency(chosen: Chosen, count: Count) -> None:
    """Time every shape of the chosen networks, all in turn, unless that is done already.

    Speed does not depend on weights: networks that are only on record are timed as well.
    """
    judged = [read_judged(one.folder) for one in _judged_of(chosen)]
    specs = {_shape(one): ModelSpec(**one["spec"]) for one in judged}
    if specs.keys() == _latencies(chosen.out).keys():
        return
    graphs: dict[latency.Key, NetworkGraph] = {}
    for shape, spec in specs.items():
        torch.manual_seed(0)
        graph = deployed(spec.build(), spec.height, spec.width)
        graphs |= {(shape, engine): graph for engine in ENGINES}
    found = latency.interleaved(graphs, count)
    content = {
        shape: {engine: found.summary((shape, engine)) for engine in ENGINES} for shape in specs
    }
    write_text_atomic(chosen.out / LATENCY_FILE, json.dumps(content, indent=2) + "\n")


def _latencies(out: Path) -> dict[str, dict[str, dict[str, float]]]:
    """What was measured, by shape; empty if nothing was."""
    try:
        content: dict[str, Any] = json.loads((out / LATENCY_FILE).read_text())
        return content
    except (OSError, ValueError):
        return {}


def _judged_of(chosen: Chosen) -> list[Network]:
    return [one for one in chosen.networks() if one.judging]


def _shape(judged: Mapping[str, Any]) -> str:
    """The same for networks that differ in their weights alone, given what is known of them."""
    spec = judged["spec"]
    of = [spec[name] for name in ("architecture", "arguments", "shapes", "height", "width")]
    return sha256_hex(json.dumps(of, sort_keys=True).encode())[:16]


def answers_on_record(
    study: Study, networks: Sequence[Network]
) -> dict[str, dict[int | None, dict[str, list[Answers]]]]:
    """Row -> seed -> set -> what the network of every fold says, of those that are judged."""
    found: dict[str, dict[int | None, dict[str, list[Answers]]]] = {}
    for network in networks:
        if not network.judging:
            continue
        sets = found.setdefault(network.row, {}).setdefault(network.seed, {})
        for name in (HELD_OUT, *study.further_sets):
            path = network.folder / EVIDENCE / f"{name}.npz"
            stems, evidence = read_evidence(path)
            one = Answers(network.drive, network.seed, stems, evidence, read_attributes(path))
            sets.setdefault(name, []).append(one)
    return found


def judged_on(
    name: str, sets: Mapping[str, Sequence[Answers]], limits: Mapping[str, float]
) -> list[Judged]:
    """All drives as one, or, on a further set, the network of every fold."""
    if name == HELD_OUT:
        return [pooled(sets[name], limits)]
    return [pooled([one], limits) for one in sets[name]]


def _about(
    study: Study,
    row: str,
    networks: Sequence[Network],
    limits: Mapping[int | None, Mapping[str, float]],
    out: Path,
) -> dict[str, Any]:
    """What the networks of a row are: means over folds and seeds."""
    own = [one for one in networks if one.row == row and one.judging]
    models = [read_judged(one.folder) for one in own]
    timed = _latencies(out)
    shapes = [_shape(one) for one in models]
    known = all(shape in timed for shape in shapes)
    kind = next((one.kind for one in study.rows if one.name == row), TEACHER)
    return {
        "kind": kind,
        "networks": len(own),
        "params": _mean([one["params"] for one in models]),
        "gmacs": _mean([one["gmacs"] for one in models]),
        "latency_ms": {
            engine: _mean([timed[shape][engine]["p50"] for shape in shapes]) for engine in ENGINES
        }
        if known
        else None,
        "thresholds": {
            "all seeds" if seed is None else f"seed {seed}": dict(one)
            for seed, one in limits.items()
        },
        "weights": {one.name: model["sha256"] for one, model in zip(own, models, strict=True)},
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
