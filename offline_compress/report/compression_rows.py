"""Many compression runs as one table: read, grouped over seeds, compared with their teachers."""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtc_perception.metrics.figures import BRIEF, Figure, nested
from mtc_perception.util.errors import UserError
from mtc_perception.util.provenance import provenance
from offline_compress.pipeline.folder import RESULT_FILE
from offline_compress.pipeline.row import ENGINES, SCHEMA, missed

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


def read_rows(folders: Sequence[Path], warn: Callable[[str], None]) -> tuple[list[Path], list[Row]]:
    """The runs that count, and their results; `warn` is told of every other one.

    A run without a result does not count, nor one with the setting and the seed of another. Raises
    UserError if none is left.
    """
    known: dict[str, Path] = {}
    rows, reasons = [], []
    for folder in folders:
        try:
            row = read_row(folder)
        except UserError as error:
            reasons.append(str(error))
            continue
        key = f"{_setting_key(row)} {row['seed']}"
        if key in known:
            reasons.append(f"{folder} has the setting and the seed of {known[key]}")
            continue
        known[key] = folder
        rows.append(row)
    if not rows:
        raise UserError(reasons[0])
    for reason in reasons:
        warn(f"left out: {reason}")
    return list(known.values()), rows


def settings_of(rows: Sequence[Row]) -> list[Setting]:
    """Rows grouped by everything but the seed, in the order in which the groups first appear.

    A run of which a step was taken back has another shape than the others: a group of its own.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_setting_key(row), []).append(row)
    return [Setting(name_of(group), group) for group in groups.values()]


def _setting_key(row: Row) -> str:
    alone = row["seed"] if row["taken_back"] else None
    key = [row["recipe"], row["teacher"]["sha256"], row["settings"], row["data"], alone]
    return json.dumps(key, sort_keys=True)


def name_of(rows: Sequence[Row]) -> str:
    """Name of rows of one setting: that of the first without the ending `-sSEED`."""
    if rows[0]["taken_back"]:
        return f"{rows[0]['name']} (taken back)"
    return str(rows[0]["name"]).removesuffix(f"-s{rows[0]['seed']}")


def shortfalls(row: Row) -> list[str]:
    """In words, what a run did not come to."""
    words = missed(row["budget"])
    found = [f"the budget is not kept: {words}"] if words else []
    found += [f"pruning ended early: {row['taken_back']}"] if row["taken_back"] else []
    # Rows of earlier versions do not say.
    return found + ([row["unrecovered"]] if row.get("unrecovered") else [])


def points(row: Row, figure: Figure) -> float | None:
    """Student minus teacher, in points (hundredths)."""
    student, teacher = (figure.of(row[who]) for who in ("student", "teacher"))
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
        "taken_back": setting.rows[0]["taken_back"],
        "budget_kept": all(not missed(row["budget"]) for row in setting.rows),
        "student": nested(BRIEF, lambda figure: spread(lambda row: figure.of(row["student"]))),
        "points": nested(BRIEF, lambda figure: spread(lambda row: points(row, figure))),
        "params_share": spread(lambda row: share(row, "params")),
        "gmacs_share": spread(lambda row: share(row, "gmacs")),
        "latency_ratio": {
            engine: spread(lambda row, e=engine: row["latency_ratio"][e])  # type: ignore[misc]
            for engine in ENGINES
        },
    }
