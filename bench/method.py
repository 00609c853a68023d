"""`python -m bench.method`: write the tables of docs/method.md anew from results/*.json."""

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from bench.criteria import REFERENCE
from bench.readme import machine, rewritten, spread
from mtc_perception.core.perception import TASKS
from offline_compress.evaluation.headlines import HEADLINES, task_scores
from offline_compress.report.compression_rows import Row, settings_of

PAGE = Path("docs/method.md")


def evidence(results: Path) -> str:
    """The tables as Markdown, from the committed results alone."""

    def read(name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((results / f"{name}.json").read_text())
        return content

    return "\n".join([*settings(read("ablation")), "", *criteria(read("criteria")), ""])


def settings(result: dict[str, Any]) -> list[str]:
    """Every setting of the matrix as one line."""
    teacher = task_scores(result["teacher"])
    images = result["rows"][0]["data"]["images"]
    lines = [
        f"CamVid `val` ({images} images), {machine(result)}; mean ± deviation where there are "
        "several seeds. Parameters and time are shares of the teacher's; *as cut* is the change of "
        "a task's score by all that pruning does, the recoveries between its steps included; what "
        "follows is the change after the recovery, all in points:",
        "",
        "| row | parameters | OpenVINO | ONNX Runtime | detection as cut | drivable as cut "
        "| lane as cut | recall | mAP50 | drivable mIoU | lane IoU |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for setting, summary in zip(settings_of(result["rows"]), result["settings"], strict=True):
        shares = [summary["params_share"], *summary["latency_ratio"].values()]
        cut = [setting.spread(partial(_as_cut, teacher, task)) for task in TASKS]
        gains = [summary["points"][task][name] for task, name in HEADLINES]
        cells = [f"x {spread(one, '.2f')}" for one in shares]
        cells += [spread(asdict(one) if one else None, "+.1f") for one in cut]
        cells += [spread(one, "+.1f") for one in gains]
        lines.append(f"| {summary['name']} | {' | '.join(cells)} |")
    return lines


def criteria(result: dict[str, Any]) -> list[str]:
    """How far the criteria agree about the channels of one network."""
    conflict, importance = (result[f"{name}_percentiles"] for name in ("conflict", "importance"))
    lines = [
        f"What the criteria make of the same scores, of the {result['channels']} channels of "
        f"{result['teacher']} over {result['images']} images, beside `{REFERENCE}` without "
        f"conflict (`python -m bench.criteria`). From the 5th to the 95th percentile importance "
        f"goes from {importance['p5']:.4f} to {importance['p95']:.1f}, conflict from "
        f"{conflict['p5']:.2f} to {conflict['p95']:.2f}:",
        "",
        "| criterion | of the better half in common | rank correlation |",
        "|---|---|---|",
    ]
    for name, one in result["criteria"].items():
        share, correlation = one["kept_in_common"], one["rank_correlation"]
        lines.append(f"| {name} | {share:.1%} | {correlation:.3f} |")
    return lines


def _as_cut(teacher: dict[str, float], task: str, row: Row) -> float | None:
    """Points that a task has lost when pruning ends; None if its score is not known."""
    after, before = row["pruned"].get(task), teacher.get(task)
    return None if after is None or before is None else 100 * (after - before)


def main() -> int:
    """Rewrite the page in the working directory; 2 if a result is missing."""
    try:
        block = evidence(Path("results"))
    except FileNotFoundError as error:
        print(f"error: {error.filename} is missing: measure it first", file=sys.stderr)
        return 2
    PAGE.write_text(rewritten(PAGE.read_text(), block, "bench.method"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
