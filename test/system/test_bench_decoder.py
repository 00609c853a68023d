"""`python -m bench.decoder`: what layers and queries of a decoder are worth per millisecond."""

import json
from pathlib import Path

import pytest
import torch

from bench import decoder
from bench.decoder import Short, main, shorter, worth
from offline_compress.evaluation import latency
from offline_compress.models.registry import ModelSpec, save_checkpoint
from support.labelled_roads import DataSet, road
from support.tiny_networks import TINY, TINY_QUERIES


def test_the_whole_decoder_is_the_last_of_what_is_tried() -> None:
    tried = shorter(3, 100)
    assert tried["layers"] == [Short(1, 100), Short(2, 100), Short(3, 100)]
    assert [one.queries for one in tried["queries"]] == [10, 25, 50, 75, 100]
    assert {one.layers for one in tried["queries"]} == {3}


def test_a_layer_is_worth_what_it_adds_over_what_it_takes() -> None:
    def row(map50_95: float | None, ms: float) -> dict[str, object]:
        return {"accuracy": {"detection.map50_95": map50_95}, "ms": {"openvino": ms}}

    rows = [row(0.4, 20), row(0.5, 22), row(0.45, 23), row(0.5, 23), row(None, 30)]
    assert worth(rows, "openvino") == [None, 5, -5, None, None]


def test_layers_and_queries_of_a_checkpoint_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("LOADS", "BLOCKS", "RUNS_PER_BLOCK", "THREADS"):
        monkeypatch.setattr(latency, name, 1)
    monkeypatch.setattr(decoder, "SHARES", (0.5,))
    rgb, drivable, lane, box = road()
    data = DataSet(tmp_path / "roads", "val")
    data.add("a", rgb, drivable, lane, [box])
    torch.manual_seed(0)
    for name, (architecture, arguments) in {
        "queries": ("rmt_ppad", TINY_QUERIES),
        "dense": ("conv_multitask", TINY),
    }.items():
        spec = ModelSpec(name, architecture, arguments, ["vehicle"], 64, 96)
        save_checkpoint(tmp_path / name, spec, spec.build())
    words = ["--data", str(tmp_path / "roads"), "--results", str(tmp_path)]
    assert main([str(tmp_path / "queries"), *words]) == 0
    assert "worth" in capsys.readouterr().out
    found = json.loads((tmp_path / "decoder.json").read_text())
    layers, queries = found["layers"], found["queries"]
    assert [row["queries"] for row in queries] == [10, 20]
    assert [row["layers"] for row in layers] == list(range(1, TINY_QUERIES["layers"] + 1))
    assert layers[-1] == {**queries[-1], "points_per_ms": layers[-1]["points_per_ms"]}
    assert layers[0]["points_per_ms"]["openvino"] is None
    assert all(row["accuracy"]["detection.map50_95"] is not None for row in layers)
    assert main([str(tmp_path / "dense"), *words]) == 2
    assert "dense has no query decoder" in capsys.readouterr().err
