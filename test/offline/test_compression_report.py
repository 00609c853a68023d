"""Rows of runs become the right table, comparison and page."""

import copy
import json
import statistics
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mtc_perception.metrics.figures import ACCURACY
from mtc_perception.util.errors import UserError
from offline_compress.pipeline.row import budget_kept
from offline_compress.report.compression_charts import channels, conflict_map, front, trade_off
from offline_compress.report.compression_pictures import chosen
from offline_compress.report.compression_report import (
    names_in,
    settings_tables,
    terminal_table,
    variants_table,
    write_report,
)
from offline_compress.report.compression_rows import (
    compression_json,
    points,
    read_row,
    read_rows,
    settings_of,
)
from support.compression_rows import ROWS

LANE_IOU = ACCURACY["lane.iou"]


def test_seeds_of_one_setting_are_grouped_and_nothing_else() -> None:
    ours, l2 = settings_of(ROWS)
    assert (ours.name, l2.name) == ("ours", "l2")
    assert [one["seed"] for one in ours.rows] == [0, 1, 2]
    other_teacher = copy.deepcopy(ROWS[0])
    other_teacher["teacher"]["sha256"] = "another"
    assert len(settings_of([*ROWS, other_teacher])) == 3


def test_a_run_that_was_taken_back_stands_alone_and_says_so(tmp_path: Path) -> None:
    rows = copy.deepcopy(ROWS)
    for one in rows[2:]:
        one["taken_back"] = "lane lost 9 points"
        one["budget"]["parameters"] = {"limit": 0.5, "achieved": 0.8, "kept": False}
    settings = settings_of(rows)
    assert [one.name for one in settings] == [
        *("ours", "l2", "ours-s1 (taken back)", "ours-s2 (taken back)"),
    ]
    budgets = [cells[2] for cells in settings_tables(settings)[0].sections[1]]
    assert budgets == ["kept", "kept", *["parameters 0.8 instead of 0.5"] * 2]
    written = [one["budget_kept"] for one in compression_json(rows)["settings"]]
    assert written == [True, True, False, False]


@pytest.mark.parametrize(("latency", "kept"), [(0.4, True), (0.39, True), (0.38, False)])
def test_budgets_are_compared_with_what_remains(latency: float, kept: bool) -> None:
    remains = {"parameters": 0.25, "macs": 0.25, "latency": 0.4}
    assert budget_kept(remains, {"parameters": 0.2, "macs": 0.25, "latency": latency}) == {
        "parameters": {"limit": 0.2, "achieved": 0.25, "kept": False},
        "macs": {"limit": 0.25, "achieved": 0.25, "kept": True},
        "latency": {"limit": latency, "achieved": 0.4, "kept": kept},
    }


def test_runs_without_a_result_and_runs_of_one_seed_are_left_out(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("none", "a", "twice", "b")]
    for folder, one in zip(folders[1:], (ROWS[0], ROWS[0], ROWS[2]), strict=True):
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps(one))
    told: list[str] = []
    assert read_rows(folders, told.append) == ([folders[1], folders[3]], [ROWS[0], ROWS[2]])
    assert "none holds no result" in told[0]
    assert "twice has the setting and the seed of" in told[1]
    with pytest.raises(UserError, match="holds no result"):
        read_rows(folders[:1], told.append)


def test_mean_and_spread_are_those_of_numpy() -> None:
    ours, l2 = settings_of(ROWS)
    changes = [-0.5, -0.9, -0.1]
    found = ours.spread(lambda one: points(one, LANE_IOU))
    assert found is not None
    assert found.mean == pytest.approx(np.mean(changes))
    assert found.deviation == pytest.approx(np.std(changes, ddof=1))
    alone = l2.spread(lambda one: points(one, LANE_IOU))
    assert alone is not None
    assert alone.deviation is None


def test_a_task_without_labels_is_undefined_not_zero() -> None:
    rows = copy.deepcopy(ROWS)
    for one in rows:
        del one["student"]["lane"], one["teacher"]["lane"]
        one["student"]["detection"]["map50"] = None
    (ours, _) = settings_of(rows)
    assert ours.spread(lambda one: points(one, LANE_IOU)) is None
    del rows[0]["pruned"]["lane"]
    _, objects, areas, pruned = settings_tables([ours])
    assert pruned.sections[1] == [[ours.name, "0.5000 ± 0.0000", "0.6000 ± 0.0000", "undefined"]]
    cells = {
        column: cell
        for table in (objects, areas)
        for column, cell in zip(table.columns, table.sections[1][0], strict=True)
    }
    assert cells["lane IoU"] == cells["detection mAP50"] == "undefined\nundefined"
    assert cells["detection recall at best F1"].endswith("\n-0.50 ± 0.40")
    json.dumps(compression_json(rows), allow_nan=False)
    assert "<svg" in trade_off([ours], "ms", lambda one, who: one[who]["latency_ms"])


def test_the_tables_say_what_the_rows_say() -> None:
    tables = settings_tables(settings_of(ROWS))
    cost, _, areas, pruned = tables
    teacher, ours, l2 = (
        dict(zip(cost.columns, cells, strict=True)) for part in cost.sections for cells in part
    )
    assert teacher["parameters"] == "4.00 M"
    assert ours["parameters"] == "1.00 M\n-75.0 %"
    assert ours["seeds"] == "3"
    assert ours["OpenVINO ms"].startswith(f"9.00 ± {statistics.stdev([8, 9, 10]):.2f}\nx ")
    assert l2["ONNX Runtime ms"].endswith("\nx 0.45")
    assert areas.sections[1][1][-1].endswith("\n-2.00")
    # Of detection the mean of 0.9 (mAP50, best F1) and 0.45 (mAP50-95).
    assert pruned.sections[0][0][1:] == ["0.7500", "0.9000", "0.9000"]
    assert pruned.sections[1][1] == [l2["setting"], "0.5000", "0.6000", "0.7000"]
    assert terminal_table(cost).row_count == 3
    # Nothing is folded in the middle of a word on the narrowest of terminals.
    console = Console(width=80, record=True)
    for table in tables:
        console.print(terminal_table(table))
    told = console.export_text()
    assert max(map(len, told.splitlines())) <= 80
    for word in ("precision", "parameters", "Runtime", "-75.0 %", "-0.50 ± 0.40"):
        assert word in told


def test_variants_are_compared_with_the_checkpoint() -> None:
    one = copy.deepcopy(ROWS[0])
    figures = {key: one["student"][key] for key in ("detection", "drivable", "lane")}
    lossy = copy.deepcopy(figures)
    lossy["lane"]["iou"] -= 0.004
    one["variants"] = {
        "fp32": {
            "bytes": 4_000_000,
            "accuracy": figures,
            "engines": {"openvino": figures | {"latency_ms": 8.0, "ratio_to_fp32": 1.0}},
        },
        "int8-trt": {"bytes": 1_000_000, "accuracy": lossy, "engines": {}},
    }
    here, elsewhere = (part[0] for part in variants_table(one).sections)
    assert here[:5] == ["fp32", "OpenVINO", "4.00", "8.00", "1.00"]
    assert elsewhere[:3] == ["int8-trt", "not here", "1.00"]
    assert elsewhere[-1].endswith("\n-0.40")


def test_compression_json_has_what_scripts_rely_on() -> None:
    content = compression_json(ROWS)
    assert content["rows"] == ROWS
    assert content["teacher"]["detection"]["map50"] == 0.9
    assert content["student"]["latency_ms"] == 8.0
    assert content["student"]["variants"] == {}
    ours = content["settings"][0]
    assert ours["seeds"] == [0, 1, 2]
    assert ours["points"]["drivable"]["miou"] == {"mean": -0.5, "deviation": 0.4}
    assert ours["params_share"]["mean"] == 0.25


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "holds no result"),
        ("{", "cannot be read"),
        ('{"schema": 99}', "no result of this version"),
        ("[]", "no result of this version"),
    ],
)
def test_a_folder_without_a_result_is_named(
    tmp_path: Path, content: str | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(UserError, match=words):
        read_row(tmp_path)


def test_the_front_is_what_nothing_dominates() -> None:
    rng = np.random.default_rng(0)
    marks = [(float(x), float(y)) for x, y in rng.integers(0, 8, (30, 2))]
    dominated = {
        mark
        for mark in marks
        for other in marks
        if other != mark and other[0] <= mark[0] and other[1] >= mark[1]
    }
    assert front(marks) == sorted(set(marks) - dominated)
    assert front([]) == []


def test_pictures_show_the_numbers() -> None:
    bars = channels({"stem": (8, 16), "stage": (48, 64)})
    assert "8 of 16" in bars
    assert "stage" in bars
    conflict = conflict_map({"stem": {"a/b": 0.25, "a/c": None}})
    assert "0.250" in conflict
    assert "unknown" in conflict


def test_frames_shown_are_the_worst_of_each_task_and_the_median() -> None:
    teacher: list[dict[str, float | None]] = [
        {"detection": 0.9, "drivable": 0.9, "lane": 0.5} for _ in range(5)
    ]
    student = copy.deepcopy(teacher)
    student[1]["detection"] = 0.4
    student[2]["drivable"] = 0.7
    student[3]["lane"] = None
    student[4]["lane"] = 0.45
    found = list(chosen(teacher, student))
    assert [index for _, index in found] == [1, 2, 4, 4]
    assert "objects, F1 (-50.0 points)" in found[0][0]
    assert "median change (-5.0 points" in found[3][0]
    assert list(chosen([], [])) == []


class _Page(HTMLParser):
    """Everything that a page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = ("href", "src", "xlink:href")
        self.links += [value for name, value in attrs if name in names and value]


def test_the_page_stands_alone_and_has_every_command(tmp_path: Path) -> None:
    """Of runs of which only the results are left, without networks and data."""
    write_report(tmp_path / "p" / "r.html", [tmp_path] * 4, ROWS, lambda _w, _d, _t: None)
    text = (tmp_path / "p" / "r.html").read_text()
    assert all(one.startswith(("#", "data:")) for one in _Page(text).links)
    for one in ROWS:
        assert one["command"] in text
    assert "-0.50 ± 0.40" in text
    assert text.count("<svg") == 3
    assert "What was not reached" not in text
    assert names_in(tmp_path / "p" / "r.html") == [one["name"] for one in ROWS]
    missed = copy.deepcopy(ROWS)
    missed[1]["budget"]["parameters"] = {"limit": 0.5, "achieved": 0.8, "kept": False}
    missed[1]["unrecovered"] = "recovery gained nothing"
    write_report(tmp_path / "r.html", [tmp_path] * 4, missed, lambda _w, _d, _t: None)
    top, cards, _ = (tmp_path / "r.html").read_text().partition('<div class="cards">')
    assert cards
    assert "not kept: parameters 0.8 instead of 0.5; recovery gained nothing" in top
