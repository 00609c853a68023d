"""`python -m bench.method`: write the table of docs/method.md anew from results/ablation.json."""

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from bench.readme import machine, rewritten, spread
from offline_compress.compression_rows import Row, settings_of
from offline_compress.headlines import HEADLINES, TASKS, task_scores

PAGE = Path("docs/method.md")


def evidence(result: dict[str, Any]) -> str:
    """Every setting of the matrix as one line of Markdown."""
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
    return "\n".join([*lines, ""])


def _as_cut(teacher: dict[str, float], task: str, row: Row) -> float | None:
    """Points that a task has lost when pruning ends; None if its score is not known."""
    after, before = row["pruned"].get(task), teacher.get(task)
    return None if after is None or before is None else 100 * (after - before)


def main() -> int:
    """Rewrite the page in the working directory; 2 if the result is missing."""
    path = Path("results/ablation.json")
    try:
        result = json.loads(path.read_text())
    except FileNotFoundError:
        print(f"error: {path} is missing: `python -m bench.ablation` writes it", file=sys.stderr)
        return 2
    PAGE.write_text(rewritten(PAGE.read_text(), evidence(result), "bench.method"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
