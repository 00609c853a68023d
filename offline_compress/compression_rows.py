"""Many compression runs as one table: read, grouped over seeds, compared with their teachers."""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtc_perception.errors import UserError
from mtc_perception.provenance import provenance
from offline_compress.pipeline.folder import RESULT_FILE
from offline_compress.pipeline.result import ENGINES, FIGURES, SCHEMA

HEADLINES = (
    ("detection", "recall"),
    ("detection", "map50"),
    ("drivable", "miou"),
    ("lane", "iou"),
)
"""What a compression must not lose: the figures of the paper's own table."""
HEADLINE_WORDS = {
    ("detection", "recall"): "recall",
    ("detection", "map50"): "mAP50",
    ("drivable", "miou"): "drivable mIoU",
    ("lane", "iou"): "lane IoU",
}

Row = dict[str, Any]
"""A `result.json`."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation (None of a single value) over seeds."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, len(values))


@dataclass(frozen=True, slots=True)
class Setting:
    """Rows that differ in their seed alone."""

    name: str
    rows: list[Row]

    def spread(self, value: Callable[[Row], float | None]) -> Spread | None:
        """Of a value over the rows; None if any row lacks it."""
        values = [value(row) for row in self.rows]
        known = [one for one in values if one is not None]
        return Spread.of(known) if len(known) == len(values) else None


def read_row(folder: Path) -> Row:
    """The result of a run. Raises UserError if there is none, or of another version."""
    path = folder / RESULT_FILE
    try:
        row = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{folder} holds no result: give folders of finished `mtc-compress run`"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(row, dict) or row.get("schema") != SCHEMA:
        raise UserError(f"{path} is no result of this version of `mtc-compress run`")
    return row


def settings_of(rows: Sequence[Row]) -> list[Setting]:
    """Rows grouped by everything but the seed, in the order in which the groups first appear."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        key = [row["recipe"], row["teacher"]["sha256"], row["settings"], row["data"]]
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(row)
    return [Setting(name_of(group), group) for group in groups.values()]


def name_of(rows: Sequence[Row]) -> str:
    """Name of rows of one setting: that of the first without the ending `-sSEED`."""
    return str(rows[0]["name"]).removesuffix(f"-s{rows[0]['seed']}")


def figure(row: Row, who: str, task: str, name: str) -> float | None:
    """A figure of `teacher` or `student`; None if the task has no labels or it is undefined."""
    value = row[who].get(task, {}).get(name)
    return None if value is None else float(value)


def points(row: Row, task: str, name: str) -> float | None:
    """Student minus teacher, in points (hundredths)."""
    student, teacher = figure(row, "student", task, name), figure(row, "teacher", task, name)
    return None if student is None or teacher is None else 100 * (student - teacher)


def share(row: Row, name: str) -> float:
    """Student over teacher, of `params` or `gmacs`."""
    return float(row["student"][name] / row["teacher"][name])


def compression_json(rows: Sequence[Row]) -> dict[str, Any]:
    """`results/compression.json`: the first row's networks on top, all rows, and their settings."""
    first = rows[0]
    return {
        "schema": SCHEMA,
        "name": first["name"],
        "teacher": first["teacher"],
        "student": first["student"] | {"variants": first["variants"]},
        "settings": [_setting_json(setting) for setting in settings_of(rows)],
        "rows": list(rows),
        **provenance(),
    }


def _setting_json(setting: Setting) -> dict[str, Any]:
    def spread(value: Callable[[Row], float | None]) -> dict[str, float | None] | None:
        found = setting.spread(value)
        if found is None:
            return None
        deviation = found.deviation
        return {
            "mean": round(found.mean, 5),
            "deviation": None if deviation is None else round(deviation, 5),
        }

    return {
        "name": setting.name,
        "seeds": [row["seed"] for row in setting.rows],
        "student": {
            task: {
                name: spread(lambda row, t=task, n=name: figure(row, "student", t, n))  # type: ignore[misc]
                for name in names
            }
            for task, names in FIGURES.items()
        },
        "points": {
            task: {
                name: spread(lambda row, t=task, n=name: points(row, t, n))  # type: ignore[misc]
                for name in names
            }
            for task, names in FIGURES.items()
        },
        "params_share": spread(lambda row: share(row, "params")),
        "gmacs_share": spread(lambda row: share(row, "gmacs")),
        "latency_ratio": {
            engine: spread(lambda row, e=engine: row["latency_ratio"][e])  # type: ignore[misc]
            for engine in ENGINES
        },
    }
