"""`python -m bench.model_card`: write the figures of docs/model_card.md from results/*.json."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.peers_accuracy import NAME as PEERS
from bench.shipped import NAME, PRECISIONS, TEACHERS
from bench.study import markdown
from bench.tables import UNKNOWN, Result, read_results, render, rewrite, with_numbers
from mtc_perception.metrics.figures import ACCURACY
from offline_compress.evaluation.evaluation_report import TextTable
from offline_compress.study.comparison import FIGURES

PAGE = Path("docs/model_card.md")
SET_TITLES = {"camvid": "CamVid", "cityscapes": "Cityscapes", "idd": "IDD"}
AIMS: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "mtc_nano": {
        "camvid": {"drivable.miou": 0.965},
        "cityscapes": {"drivable.miou": 0.93, "detection.map50": 0.42},
        "idd": {"drivable.miou": 0.92},
    }
}
"""The least that was aimed at before a bundle was made, by set and figure."""
DIRECT = "mtc_xs_tuned"
"""Of the networks that were trained directly the nearest to the bundles."""


def with_figures(page: str, results: Path) -> str:
    """The page with its tables, from the committed results alone."""
    found = read_results(results, (NAME, DIRECT, PEERS))
    made = render("model_card_made.md.j2", bundles=bundles(results), direct=found[DIRECT])
    page = with_numbers(page, made, "bench.model_card", "made")
    figures = found[NAME]
    told = render(
        "model_card.md.j2",
        shipped=figures,
        teachers=sorted(set(TEACHERS.values())),
        tables=[(one.title, markdown(one)) for one in set_tables(figures)],
        aims=aims(figures),
        detector=found[PEERS]["networks"]["YOLOX-Nano"]["sets"]["cityscapes val"],
    )
    return with_numbers(page, told, "bench.model_card")


def bundles(results: Path) -> list[dict[str, Any]]:
    """Every bundle: what it is, its figures by set, and the compression that made it."""
    [figures] = read_results(results, (NAME,)).values()
    found = []
    for name, teacher in TEACHERS.items():
        [made] = read_results(results, [f"compression_{name}"]).values()
        [row], [shares] = made["rows"], made["settings"]
        about = figures["networks"][f"{name} {PRECISIONS[0]}"]
        found.append({"name": name, "teacher": teacher, "row": row, "shares": shares} | about)
    return found


def set_tables(figures: Result) -> Iterator[TextTable]:
    """One table for every data set: values, and changes against the network named, in points."""
    for name, content in figures["sets"].items():
        rows = {network: one["sets"][name] for network, one in figures["networks"].items()}
        known = [figure for figure in FIGURES if all(figure.name in row for row in rows.values())]
        cells = []
        for network, row in rows.items():
            cells.append([network, *(spread(row[one.name]) for one in known)])
            if against := figures["networks"][network]["reference"]:
                changes = (points(row[one.name]["change"]) for one in known)
                cells.append([f"against {against}, points", *changes])
        yield TextTable(
            set_words(name, content),
            ["", *(figure.title for figure in known)],
            [cells],
        )


def set_words(name: str, content: Mapping[str, int]) -> str:
    """What of a data set figures are of."""
    objects = f", {content['objects']} vehicles" if content["objects"] else ""
    return f"{SET_TITLES[name]} `val`, {content['images']} images{objects}"


def spread(one: Mapping[str, float | None]) -> str:
    """A value and its interval."""
    return _interval(one, ".3f", 1)


def points(one: Mapping[str, float | None]) -> str:
    """A change and its interval, in points."""
    return _interval(one, "+.1f", 100)


def _interval(one: Mapping[str, Any], form: str, scale: float) -> str:
    if one["value"] is None:
        return UNKNOWN
    value, low, high = (one[key] and scale * one[key] for key in ("value", "low", "high"))
    return f"{value:{form}}" + ("" if low is None else f" ({low:{form}} to {high:{form}})")


def aims(figures: Result) -> list[dict[str, Any]]:
    """What was aimed at, and what was reached."""
    found = []
    for bundle, sets in AIMS.items():
        of_sets = figures["networks"][f"{bundle} {PRECISIONS[0]}"]["sets"]
        for name, least in sets.items():
            for figure, aim in least.items():
                reached = of_sets[name][figure]
                about = {"bundle": bundle, "set": SET_TITLES[name], "aim": aim}
                about |= {"title": ACCURACY[figure].title, "reached": spread(reached)}
                found.append(about | {"met": reached["value"] >= aim})
    return found


def main() -> int:
    """Rewrite the page in the working directory; 2 if a result is missing."""
    return rewrite(PAGE, with_figures)


if __name__ == "__main__":
    sys.exit(main())
