"""One compression run as one row of a table: `result.json`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtc_perception.core.bundle import Bundle
from mtc_perception.metrics.figures import BRIEF, means_by_task, nested, task_scores
from mtc_perception.util.provenance import provenance
from offline_compress.evaluation.latency import Key, Latencies, conditions
from offline_compress.pipeline.folder import RunFolder
from offline_compress.pipeline.stages import MARKERS_FOLDER
from offline_compress.pruning.plan import Plan, PlanStep, read_plan
from offline_compress.recipe.recipe import Recipe

SCHEMA = 4
MEASURED_SLACK = 1.05
"""Latency over its budget that still counts as kept: by how much two measurements may differ."""
ENGINES = ("openvino", "onnxruntime")
TEACHER, STUDENT = "teacher", "fp32"
"""Networks of `Latencies`: the teacher, and variants of the student by their names."""


def row(
    run: RunFolder,
    teacher: dict[str, Any],
    student: dict[str, Any],
    variants: dict[str, dict[str, dict[str, Any]]],
    bundle: Bundle,
    latencies: Latencies,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """The row of a run.

    Args:
        teacher, student: metric JSON of the checkpoints.
        variants: variant -> engine -> metric JSON, of those that run here.
        bundle: with all variants.
        latencies: of the teacher and of the variants.
        seconds: spent in each stage.
    """
    target = run.compress.prune.engine
    plan = read_plan(run.plan)
    counted = counted_steps(plan)
    pruned = means_by_task(counted[-1].after) if counted else {}
    begun = run.begun()
    settings = run.compress.model_dump(mode="json", exclude={"seed", "student", "teacher"})
    content = {
        "schema": SCHEMA,
        "name": run.path.resolve().name,
        "recipe": run.recipe.name,
        "seed": run.compress.seed,
        "settings": settings,
        "data": student["data"],
        "teacher": _network(teacher, TEACHER, latencies, target),
        "student": _network(student, STUDENT, latencies, target),
        "pruned": pruned,
        "latency_ratio": {
            engine: latencies.ratio((STUDENT, engine), (TEACHER, engine)) for engine in ENGINES
        },
        "latency_conditions": conditions(),
        "variants": {
            key: {
                "bytes": len(bundle.model_bytes(key)),
                "accuracy": figures(variant.accuracy or {}),
                "engines": {
                    engine: _variant(key, engine, metrics, latencies)
                    for engine, metrics in variants.get(key, {}).items()
                },
            }
            for key, variant in bundle.manifest.variants.items()
        },
        "seconds": seconds,
        **provenance(),
        "command": begun["command"],
        "taken_back": plan.steps[-1].taken_back,
        "unrecovered": unrecovered(pruned, student),
    }
    limits = settings["prune"]["budget"]
    return content | {"budget": budget_kept(_remains(content), limits)}


def budget_kept(
    remains: Mapping[str, float], budget: Mapping[str, float | None]
) -> dict[str, dict[str, float | bool]]:
    """Of every cost that a budget names, what `remains` of the teacher's, and whether that is it.

    Both are fractions of the teacher's by kind.
    """
    return {
        kind: {
            "limit": limit,
            "achieved": round(remains[kind], 4),
            "kept": round(remains[kind], 4) <= limit * (MEASURED_SLACK if kind == "latency" else 1),
        }
        for kind, limit in budget.items()
        if limit is not None
    }


def _remains(row: dict[str, Any]) -> dict[str, float]:
    return {
        "parameters": row["student"]["params"] / row["teacher"]["params"],
        "macs": row["student"]["gmacs"] / row["teacher"]["gmacs"],
        # Not as pruning measured it, which took the best of several selections.
        "latency": row["latency_ratio"][row["settings"]["prune"]["engine"]],
    }


def missed(budget: Mapping[str, Mapping[str, float | bool]]) -> str:
    """In words, the parts of a budget (`budget_kept`) that are not kept; empty if all are."""
    return ", ".join(
        f"{kind} {one['achieved']:g} instead of {one['limit']:g}"
        for kind, one in budget.items()
        if not one["kept"]
    )


def unrecovered(pruned: Mapping[str, float], student: dict[str, Any]) -> str:
    """In words, that a student is no better than the pruned network; empty if it is.

    `pruned` are that network's scores by task, `student` is metric JSON.
    """
    after = task_scores(student)
    if not pruned or pruned.keys() != after.keys():
        return ""
    before, now = (sum(scores.values()) / len(scores) for scores in (pruned, after))
    if now > before:
        return ""
    return f"recovery gained nothing: score {now:.4f}, of the pruned network {before:.4f}"


@dataclass(frozen=True, slots=True)
class Shortfall:
    """What a run did not come to."""

    missed: str
    """The parts of the budget that are not kept; empty if all are."""
    warnings: tuple[str, ...]
    """All that is to be said of it."""


def short_of(recipe: Recipe, out: Path | None, finished: bool) -> Shortfall:
    """Whether a run keeps its budget: by its row where it is `finished`, else by its plan."""
    run = RunFolder.of(recipe, out)
    if finished:
        row = json.loads(run.result.read_text())
        budget, taken_back, gained = row["budget"], row["taken_back"], row.get("unrecovered", "")
    else:
        plan = read_plan(run.plan)
        limits, steps = run.compress.prune.budget.model_dump(), counted_steps(plan)
        remains = steps[-1].remains if steps else dict.fromkeys(limits, 1.0)
        budget, taken_back, gained = budget_kept(remains, limits), plan.steps[-1].taken_back, ""
    words = missed(budget)
    warnings = [f"pruning ended early: {taken_back}"] if taken_back else []
    warnings += [f"the budget is not kept: {words}"] if words else []
    return Shortfall(words, (*warnings, *([gained] if gained else [])))


def counted_steps(plan: Plan) -> list[PlanStep]:
    """The steps that were not taken back. What the last one left is what is recovered."""
    return [step for step in plan.steps if not step.taken_back]


def figures(metrics: dict[str, Any]) -> dict[str, Any]:
    """What a row keeps of a metric JSON, of the tasks that it has."""
    known = [figure for figure in BRIEF if figure.task in metrics]
    return nested(known, lambda figure: metrics[figure.task][figure.key])


def stage_seconds(folder: Path) -> dict[str, float]:
    """Time spent in every stage that has begun, as far as it has been noted."""
    paths = sorted((folder / MARKERS_FOLDER).glob("*.json"))
    return {path.stem: json.loads(path.read_text())["seconds"] for path in paths}


def _network(
    metrics: dict[str, Any], name: str, latencies: Latencies, target: str
) -> dict[str, Any]:
    by_engine = {engine: latencies.summary((name, engine)) for engine in ENGINES}
    return {
        "name": metrics["model"]["name"],
        "sha256": metrics["model"]["sha256"],
        **figures(metrics),
        "params": metrics["params"],
        "gmacs": metrics["gmacs"],
        "latency_ms": by_engine[target]["p50"],
        "latency_ms_by_engine": {engine: one["p50"] for engine, one in by_engine.items()},
        "latency_p95_ms_by_engine": {engine: one["p95"] for engine, one in by_engine.items()},
    }


def _variant(
    variant: str, engine: str, metrics: dict[str, Any], latencies: Latencies
) -> dict[str, Any]:
    key: Key = (variant, engine)
    return {
        **figures(metrics),
        "latency_ms": latencies.summary(key)["p50"],
        "ratio_to_fp32": latencies.ratio(key, (STUDENT, engine)),
    }
