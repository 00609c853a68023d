"""What documents show of a study and of public networks: tables, and all of them in one picture."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.peers_accuracy import FIGURES as SHOWN
from bench.peers_accuracy import NAME as PEERS
from bench.peers_accuracy import table as peers_table
from bench.peers_study import NAME as PEERS_STUDY
from bench.tables import Result, read_results
from mtc_perception.metrics.figures import Figure
from offline_compress.evaluation.evaluation_report import TextTable
from offline_compress.report.compression_charts import Panel, networks
from offline_compress.study.comparison import FIGURES
from offline_compress.study.report import changes_picture, lines_tables, networks_table

STUDY, STUDENTS = "study_camvid", "study_camvid_students"
"""Students against the control, and students that were made in other ways against the first."""
PICTURE = Path("docs/pictures/accuracy_latency.svg")
CHANGES_PICTURE = Path("docs/pictures/study_changes.svg")
_CHANGE = "change", "low", "high"
_STRETCH = {"params": 0.65, "gmacs": 0.57}
"""Shares to be saved, a bar after PAGCP (arXiv 2303.11923)."""
_STRETCH_FIGURE, _STRETCH_POINTS = "detection.map50_95", 1.5
"""What that may cost."""
_ENGINE = "openvino"


def study_values(results: Path) -> dict[str, Any]:
    """What templates show: `study`, `peers_accuracy` and `peers_study`, each None where it is not
    measured yet; their tables as Markdown, and whether there is a picture."""
    study, peers, beside = (_measured(results, name) for name in (STUDY, PEERS, PEERS_STUDY))
    tables = [networks_table(study), *lines_tables(study)] if study else []
    return {
        "study": study,
        "study_tables": [(one.title, markdown(one)) for one in tables],
        "study_whole": _whole_sets(study) if study else [],
        "intervals": intervals(study) if study else 0,
        "stretch": stretch(study) if study else [],
        "peers_accuracy": peers,
        "peers_accuracy_table": markdown(peers_table(peers)) if peers else "",
        "peers_study": beside,
        "peers_study_tables": [
            (one.title, markdown(one)) for one in (peers_study_tables(beside) if beside else ())
        ],
        "picture": bool(peers and panels(peers)),
        "changes_picture": bool(study and changes_picture(study)),
    }


def students_values(results: Path) -> dict[str, Any]:
    """What `method_students.md.j2` shows: the result, None where it is not measured yet, and its
    tables."""
    found = _measured(results, STUDENTS)
    networks = [("Networks", markdown(networks_table(found)))] if found else []
    return {"study": found, "tables": networks + _whole_sets(found) if found else []}


def _whole_sets(study: Result) -> list[tuple[str, str]]:
    """Titles and tables of all images of each set."""
    tables = [one for one in lines_tables(study) if ", all: " in one.title]
    return [(one.title, markdown(one)) for one in tables]


def peers_study_tables(found: Result) -> Iterator[TextTable]:
    """Public networks beside a study's reference, but for single drives; on every set those that do
    a task that is labelled there."""
    lines = [
        line | {"rows": {name: row for name, row in line["rows"].items() if row}}
        for line in found["lines"]
        if line["part"] not in found["folds"]
    ]
    return lines_tables({"lines": lines})


def headline(results: Path) -> dict[str, Any] | None:
    """What the README says of the study: costs of its first student as shares of the reference's,
    and changes in points with their intervals on all that was held out. None: not measured."""
    study = _measured(results, STUDY)
    if study is None:
        return None
    student = next(name for name, one in study["rows"].items() if one["kind"] == "student")
    own, reference = study["rows"][student], study["rows"][study["reference"]]
    times = own["latency_ms"], reference["latency_ms"]
    changes = [
        (brief(figure), *(100 * line["rows"][student][figure.name][key] for key in _CHANGE))
        for line in study["lines"][:1]
        for figure in FIGURES
        if figure.name in line["rows"][student]
    ]
    return {
        "drives": len(study["folds"]),
        "params_share": own["params"] / reference["params"],
        "time_share": times[0]["openvino"] / times[1]["openvino"] if all(times) else None,
        "changes": changes,
    }


def intervals(study: Result) -> int:
    """How many a study reports."""
    rows = [row for line in study["lines"] for row in line["rows"].values()]
    return sum("low" in figure for row in rows for figure in row.values())


def stretch(study: Result) -> list[dict[str, Any]]:
    """How each student stands to `_STRETCH` on all that was held out: what it saves of each cost,
    its loss with the interval in points, and a verdict on each."""
    reference = study["rows"][study["reference"]]
    found = []
    for name, row in study["rows"].items():
        figure = study["lines"][0]["rows"][name].get(_STRETCH_FIGURE)
        if row["kind"] != "student" or figure is None:
            continue
        saved = {cost: 1 - row[cost] / reference[cost] for cost in _STRETCH}
        change, low, high = (100 * figure[key] for key in _CHANGE)
        verdict = "missed" if high < -_STRETCH_POINTS else "not shown"
        found.append(
            {
                "row": name,
                "costs": {
                    cost: {"saved": share, "reached": share >= _STRETCH[cost]}
                    for cost, share in saved.items()
                },
                "change": [change, low, high],
                "verdict": "reached" if low >= -_STRETCH_POINTS else verdict,
            }
        )
    return found


def brief(figure: Figure) -> str:
    """A figure's title where tasks need no name."""
    return figure.title.removeprefix("detection ").removesuffix(" at the score threshold")


def write_pictures(results: Path) -> None:
    """Write the study's changes, and the accuracy of all networks over latency."""
    study, peers = (_measured(results, name) for name in (STUDY, PEERS))
    for picture in changes_picture(study) if study else ():
        CHANGES_PICTURE.write_text(picture)
    if peers and (found := panels(peers)):
        PICTURE.write_text(networks(found, "ms, OpenVINO, fp32"))


def panels(peers: Result) -> list[Panel]:
    """Figures on the frames of each set over latency, of public networks and ours. None where they
    were not timed."""
    found = []
    for name in peers["images"]:
        for figure in SHOWN:
            marks = {
                network: (one["latency_ms"][_ENGINE], value)
                for network, one in peers["networks"].items()
                if "latency_ms" in one
                and (value := figure.of(one["sets"].get(name, {}))) is not None
            }
            if marks:
                found.append(Panel(f"{name}: {figure.title}", marks))
    return found


def markdown(table: TextTable) -> str:
    """A table of text as Markdown, whose cells have one line."""
    rows = [row for section in table.sections for row in section]
    lines = [table.columns, ["---"] * len(table.columns), *rows]
    flat = ([cell.replace("\n", ", ") for cell in cells] for cells in lines)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in flat)


def _measured(results: Path, name: str) -> Result | None:
    try:
        return read_results(results, (name,))[name]
    except FileNotFoundError:
        return None
