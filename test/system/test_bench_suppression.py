"""`python -m bench.suppression` on a network that finds every vehicle several times."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.suppression import RULES, main
from offline_compress.export import suppress
from offline_compress.models.registry import ModelSpec, save_checkpoint
from support.labelled_roads import DataSet
from support.tiny_networks import TINY, TINY_QUERIES

SPEC = ModelSpec("tiny", "conv_multitask", TINY, ["vehicle"], 64, 96)


def test_all_rules_are_scored_on_every_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "tiny", SPEC, SPEC.build())
    roots = [tmp_path / name for name in ("a", "b")]
    for root in roots:
        root.mkdir()
        noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
        DataSet(root).add("one", noise, boxes=[[8, 8, 40, 40]])
    save_checkpoint(tmp_path / "other", SPEC, SPEC.build())
    arguments = [str(tmp_path / "tiny"), str(tmp_path / "other"), "--results", str(tmp_path)]
    for root in roots:
        arguments += ["--data", str(root)]
    assert main(arguments) == 0
    rows = json.loads((tmp_path / "suppression.json").read_text())["rows"]
    assert [(row["network"], row["data"], row["rule"]) for row in rows] == [
        (network, data, rule) for network in ("tiny", "other") for data in "ab" for rule in RULES
    ]
    assert all(0 <= row["map50"] <= 1 for row in rows)

    queries = replace(
        SPEC, architecture="rmt_ppad", arguments=TINY_QUERIES | {"segmentation": "stride4"}
    )
    save_checkpoint(tmp_path / "queries", queries, queries.build())
    assert main([str(tmp_path / "queries"), *arguments[1:]]) == 2
    assert "needs no suppression" in capsys.readouterr().err


def test_rules_are_those_of_their_names() -> None:
    # Of IoU 0.55 and 0.65 with the first; all of the last lies inside it, a third of its area.
    boxes = torch.tensor([[[0, 0, 100, 100], [0, 0, 100, 55], [0, 0, 65, 100], [0, 60, 99, 94]]])
    scores, labels = torch.tensor([[0.9, 0.8, 0.7, 0.6]]), torch.zeros(1, 4)
    left = {
        name: (suppress(boxes.float(), scores, labels, **rule)[0] > 0).tolist()
        for name, rule in RULES.items()
    }
    assert left == {
        "IoU 0.5": [True, False, False, True],
        "IoU 0.6": [True, True, False, True],
        "IoU 0.7": [True, True, True, True],
        "inside 0.9": [True, False, False, False],
        "inside 0.85, IoU 0.4": [True, False, False, True],
    }
