"""What an evaluation leaves behind: the result file, its page, thresholds for `export`, speed."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtc_perception.core.engine import Outputs
from mtc_perception.core.images import SourceImage
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.datasets.layout import Sample, read_split
from mtc_perception.util.errors import UserError
from offline_compress.evaluation import speed
from offline_compress.evaluation.accuracy import evaluate_subject
from offline_compress.evaluation.evaluation_report import tables, write_report
from offline_compress.evaluation.metrics_file import (
    describe,
    metrics_of_checkpoint,
    recommended_thresholds,
    result_folder,
    result_json,
)
from offline_compress.evaluation.subject import Subject, open_subject
from support.labelled_roads import HEIGHT, WIDTH, DataSet, road

SPEED: dict[str, Any] = {
    "batch": 1,
    "warm_up_runs": 5,
    "runs": 100,
    "latency_ms": {"p50": 1.0, "p95": 2.0, "mean": 1.5},
    "fps": 666.67,
}


@pytest.fixture
def subject(toy_bundle: Path) -> Subject:
    return open_subject(toy_bundle, "onnxruntime")


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Six images, good and bad, in two kinds of weather; one has no attributes."""
    data = DataSet(tmp_path / "roads")
    data.root.mkdir()
    rgb, drivable, lane, box = road()
    for index in range(6):
        label = np.roll(lane, 7 * (index % 3), axis=1)
        data.add(f"{index}", rgb, drivable if index % 2 else ~drivable, label, [box])
    weather = ["rainy", "clear", "rainy", "clear", "clear", ""]
    return [
        replace(sample, attributes={"weather": kind, "scene": "city"} if kind else {})
        for sample, kind in zip(read_split(data.root, "val"), weather, strict=True)
    ]


def roads(subject: Subject) -> dict[str, Any]:
    return describe(subject, [Path("roads")], "val", None)


def result_of(subject: Subject, samples: list[Sample]) -> dict[str, Any]:
    evaluation = evaluate_subject(subject, samples)
    return result_json(subject, evaluation, SPEED, roads(subject))


# --- Conditions ----------------------------------------------------------------------------------


def test_each_condition_is_scored_like_a_data_set_of_its_own(
    subject: Subject, samples: list[Sample]
) -> None:
    result = result_of(subject, samples)
    assert result["conditions"].keys() == {"weather", "scene"}
    assert list(result["conditions"]["weather"]) == ["clear", "rainy"]
    for attribute, values in result["conditions"].items():
        for value, figures in values.items():
            part = [one for one in samples if one.attributes.get(attribute) == value]
            alone = result_of(subject, part)
            assert figures == {task: alone[task] for task in ("detection", "drivable", "lane")}
    assert result["conditions"]["scene"]["city"]["lane"]["images"] == 5
    assert result["lane"]["images"] == 6


def test_conditions_are_shown_where_there_are_any(
    subject: Subject, samples: list[Sample], tmp_path: Path
) -> None:
    result = result_of(subject, samples)
    (table,) = (one for one in tables(result) if one.title == "conditions")
    rows = [row for section in table.sections for row in section]
    assert [row[:3] for row in rows] == [
        ["scene", "city", "5"],
        ["weather", "clear", "3"],
        ["", "rainy", "2"],
    ]
    assert rows[2][table.columns.index("lane IoU")] == (
        f"{result['conditions']['weather']['rainy']['lane']['iou']:.4f}"
    )
    write_report(tmp_path / "a.html", subject, evaluate_subject(subject, samples), result)
    page = (tmp_path / "a.html").read_text()
    assert "<h2>Conditions</h2>" in page
    assert "rainy, city)" in page  # beside a picture

    bare = [replace(sample, attributes={}) for sample in samples]
    plain = result_of(subject, bare)
    assert "conditions" not in plain
    assert [one.title for one in tables(plain)] == ["figures", "classes", "thresholds"]


def test_the_page_of_data_without_labels(
    subject: Subject, samples: list[Sample], tmp_path: Path
) -> None:
    bare = [replace(one, boxes=None, ignore=None, drivable=None, lane=None) for one in samples]
    evaluation = evaluate_subject(subject, bare)
    result = result_json(
        subject, evaluation, SPEED, describe(subject, [Path("roads")], "val", None)
    )
    write_report(tmp_path / "a.html", subject, evaluation, result)
    page = (tmp_path / "a.html").read_text()
    assert "latency, p50" in page
    assert "<svg" not in page
    assert "<img" not in page


def test_the_page_shows_every_figure_of_the_file(
    subject: Subject, samples: list[Sample], tmp_path: Path
) -> None:
    evaluation = evaluate_subject(subject, samples)
    result = result_json(
        subject, evaluation, SPEED, describe(subject, [Path("roads")], "val", None)
    )
    ticks: list[tuple[int, int]] = []
    write_report(tmp_path / "a.html", subject, evaluation, result, lambda *tick: ticks.append(tick))
    page = (tmp_path / "a.html").read_text()
    shown = set(re.findall(r"<td>(\d\.\d{4})</td>", page))
    for task in ("detection", "drivable", "lane"):
        for name, value in result[task].items():
            if isinstance(value, float) and not name.endswith("threshold"):
                assert f"{value:.4f}" in shown, (task, name)
    assert ticks[-1][0] == ticks[-1][1] == page.count("<img") == 18


# --- Thresholds ----------------------------------------------------------------------------------


def test_recommended_thresholds_are_the_best_of_the_sweep(
    subject: Subject, samples: list[Sample]
) -> None:
    result = result_of(subject, samples)
    found = recommended_thresholds(json.loads(json.dumps(result)))
    assert found.keys() == {"score", "drivable", "lane"}
    for task, figure in (("drivable", "miou"), ("lane", "iou")):
        sweep = result["sweep"][task]
        value = sweep[figure][sweep["threshold"].index(found[task])]
        assert value == max(sweep[figure])
    assert found["score"] == result["detection"]["best_f1_threshold"]
    assert recommended_thresholds({"detection": {}}) == {}
    del result["sweep"]["lane"]
    assert recommended_thresholds(result).keys() == {"score", "drivable"}


def test_metrics_must_be_of_the_checkpoint(tmp_path: Path) -> None:
    checkpoint, metrics = tmp_path / "best", tmp_path / "metrics.json"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    model = {"kind": "checkpoint", "sha256": "0" * 64}
    for content, message in (
        ("[1]", "is no metrics file"),
        ("{", "cannot be read"),
        (json.dumps({"lane": {}, "model": {"kind": "bundle"}}), "is not of a checkpoint"),
        (json.dumps({"lane": {}, "model": model}), "is of other weights"),
    ):
        metrics.write_text(content)
        with pytest.raises(UserError, match=message):
            metrics_of_checkpoint(metrics, checkpoint)


# --- Folder --------------------------------------------------------------------------------------


def test_results_of_different_networks_get_different_folders(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    description = describe(subject, [tmp_path / "roads"], "val", None)
    out = result_folder(description, None)
    assert out == Path("out/evaluate/toy_onnxruntime_fp32/roads_val")
    assert not out.exists()
    out.mkdir(parents=True)
    (out / "metrics.json").write_text(json.dumps(description))
    assert result_folder(description, None) == out  # the same again: replaced
    part = describe(subject, [tmp_path / "roads"], "val", 5)
    assert result_folder(part, None) == out.with_name("roads_val_first5")
    with pytest.raises(UserError, match="another data"):
        result_folder(part, out)
    assert result_folder(description, tmp_path / "elsewhere") == tmp_path / "elsewhere"
    for key, name, value in (
        ("model", "label", "other"),
        ("engine", "precision", "int8"),
        ("data", "split", "train"),
        ("asked", "data", "elsewhere/roads"),
        ("asked", "thresholds", {"score": 0.1}),
        ("asked", "max_detections", 3),
    ):
        changed = description | {key: description[key] | {name: value}}
        what = name if key == "asked" else key
        with pytest.raises(UserError, match=f"another {what} .*; give another --out"):
            result_folder(changed, out)
    (out / "metrics.json").write_text("damaged")
    assert result_folder(description, out) == out


# --- Speed ---------------------------------------------------------------------------------------


class FakeClock:
    """Time that only passes when the engine runs."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


class FakeEngine:
    """Takes the given times, the last of them for ever."""

    name, precision, device = "fake", "fp32", "nowhere"
    input = np.zeros((1, HEIGHT, WIDTH, 3), np.uint8)

    def __init__(self, clock: FakeClock, times_ms: list[float]) -> None:
        self.clock, self.times_ms, self.runs = clock, times_ms, 0

    def prepare(self, image: SourceImage, letterbox: Letterbox) -> None:
        pass

    def start(self) -> None:
        self.clock.now_s += self.times_ms[min(self.runs, len(self.times_ms) - 1)] / 1e3
        self.runs += 1

    def wait(self) -> Outputs:
        empty = np.zeros((1, 0), np.float32)
        mask = np.zeros((1, HEIGHT, WIDTH), np.uint8)
        return Outputs(np.zeros((1, 0, 4), np.float32), empty, empty.astype(np.int32), mask, mask)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("times_ms", "runs", "p50", "p95", "fps"),
    [
        # Warming up takes ten times as long and must not count.
        ([100.0] * 5 + [10.0], 100, 10.0, 10.0, 100.0),
        ([100.0] * 5 + [10.0, 20.0] * 50, 100, 15.0, 20.0, 66.67),
        # A slow network is not timed for minutes, and one that is very slow ten times all the same.
        ([380.0], 22, 380.0, 380.0, 2.63),
        ([5000.0], 10, 5000.0, 5000.0, 0.2),
    ],
)
def test_speed(
    times_ms: list[float],
    runs: int,
    p50: float,
    p95: float,
    fps: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = FakeClock()
    monkeypatch.setattr(speed, "time", clock)
    monkeypatch.setattr(speed, "RUNS", 100)
    ticks: list[tuple[int, int]] = []
    engine = FakeEngine(clock, times_ms)
    found = speed.measure_speed(engine, lambda *tick: ticks.append(tick))
    assert found["latency_ms"]["p50"] == pytest.approx(p50)
    assert found["latency_ms"]["p95"] == pytest.approx(p95)
    assert found["fps"] == pytest.approx(fps)
    assert (found["batch"], found["warm_up_runs"], found["runs"]) == (1, 5, runs)
    assert engine.runs == runs + 5
    assert ticks[-1] == (runs + 5, runs + 5)
