"""`python -m bench.method`: write the tables of docs/method.md anew from results/*.json."""

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

from bench.criteria import REFERENCE
from bench.tables import Result, read_results, render, with_numbers
from mtc_perception.core.perception import TASKS
from mtc_perception.metrics.figures import HEADLINES, task_scores
from offline_compress.report.compression_rows import Row, settings_of

PAGE = Path("docs/method.md")


def evidence(ablation: Result, criteria: Result) -> str:
    """The tables of an ablation and of the criteria's agreement, as Markdown."""
    teacher = task_scores(ablation["teacher"])
    settings = []
    for setting, summary in zip(settings_of(ablation["rows"]), ablation["settings"], strict=True):
        cuts = [setting.spread(partial(_as_cut, teacher, task)) for task in TASKS]
        settings.append((summary, [asdict(cut) if cut else None for cut in cuts]))
    return render(
        "method.md.j2",
        ablation=ablation,
        settings=settings,
        as_cut_of=TASKS,
        headlines=HEADLINES,
        criteria=criteria,
        reference=REFERENCE,
    )


def _as_cut(teacher: dict[str, float], task: str, row: Row) -> float | None:
    """Points that a task has lost when pruning ends; None if its score is not known."""
    after, before = row["pruned"].get(task), teacher.get(task)
    return None if after is None or before is None else 100 * (after - before)


def main() -> int:
    """Rewrite the page in the working directory; 2 if a result is missing."""
    try:
        block = evidence(**read_results(Path("results"), ("ablation", "criteria")))
    except FileNotFoundError as error:
        print(f"error: {error.filename} is missing: measure it first", file=sys.stderr)
        return 2
    PAGE.write_text(with_numbers(PAGE.read_text(), block, "bench.method"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
