"""What documents show of a study and of public networks: tables, and all of them in one picture."""

from pathlib import Path
from typing import Any

from bench.peers_accuracy import NAME as PEERS
from bench.peers_accuracy import table as peers_table
from bench.tables import Result, read_results
from mtc_perception.metrics.figures import Figure, figures
from offline_compress.evaluation.evaluation_report import TextTable
from offline_compress.report.compression_charts import Panel, networks
from offline_compress.study.comparison import FIGURES
from offline_compress.study.report import changes_picture, lines_tables, networks_table

STUDY = "study_camvid"
PICTURE = Path("docs/pictures/accuracy_latency.svg")
CHANGES_PICTURE = Path("docs/pictures/study_changes.svg")
_SHOWN = figures("detection.map50", "detection.map50_95", "drivable.miou", "lane.iou")
_CHANGE = "change", "low", "high"
_STRETCH = {"params": 0.65, "gmacs": 0.57}
"""Shares to be saved, a bar after PAGCP (arXiv 2303.11923)."""
_STRETCH_FIGURE, _STRETCH_POINTS = "detection.map50_95", 1.5
"""What that may cost."""
_ENGINE = "openvino"


def study_values(results: Path) -> dict[str, Any]:
    """What templates show: `study` and `peers_accuracy`, each None where it is not measured yet;
    their tables as Markdown, and whether there is a picture."""
    study, peers = (_measured(results, name) for name in (STUDY, PEERS))
    tables = [networks_table(study), *lines_tables(study)] if study else []
    whole = [one for one in tables if ", all: " in one.title]
    return {
        "study": study,
        "study_tables": [(one.title, markdown(one)) for one in tables],
        "study_whole": [(one.title, markdown(one)) for one in whole],
        "intervals": intervals(study) if study else 0,
        "stretch": stretch(study) if study else [],
        "peers_accuracy": peers,
        "peers_accuracy_table": markdown(peers_table(peers)) if peers else "",
        "picture": bool(peers and panels(peers)),
        "changes_picture": bool(study and changes_picture(study)),
    }


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
        (_brief(figure), *(100 * line["rows"][student][figure.name][key] for key in _CHANGE))
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


def _brief(figure: Figure) -> str:
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
        for figure in _SHOWN:
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
