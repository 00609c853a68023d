"""The null test of the conflict: cosines by hand, sets of batches, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench.conflict import Comparison, channel_cosines, main
from offline_compress.channels.groups import ChannelGroup, Slice
from offline_compress.models.registry import model_spec, save_checkpoint
from offline_compress.roads.road_dataset import write_dataset
from support.tiny_training import register

MODEL = nn.ModuleDict({"one": nn.Conv2d(2, 3, 3), "two": nn.Conv2d(2, 3, 1)})
COLUMN = np.arange(3)[:, None]
GROUP = ChannelGroup("one", 3, (Slice("one", "out", COLUMN), Slice("two", "out", COLUMN)), {}, "")


def gradients(seed: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    found = [
        {
            name: torch.randn(layer.weight.shape, generator=generator)
            for name, layer in MODEL.items()
        }
        for _ in range(3)
    ]
    found[2]["one"][1] = found[2]["two"][1] = 0  # a channel that the lanes do not reach
    return found


def cosine(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], channel: int) -> float:
    vectors = [torch.cat([g[n][channel].flatten() for n in MODEL]) for g in (one, other)]
    return float(torch.cosine_similarity(*vectors, dim=0))


def test_cosines_are_of_all_filters_that_make_a_channel() -> None:
    first, second = gradients(1), gradients(2)
    found = channel_cosines(first, second, MODEL, [GROUP])
    for (t, u, channel), value in np.ndenumerate(found):
        if channel == 1 and 2 in (t, u):
            assert np.isnan(value)
        else:
            assert value == pytest.approx(cosine(first[t], second[u], channel), abs=1e-6)


def test_sets_are_compared_with_themselves_and_the_next() -> None:
    parts = [gradients(seed) for seed in range(4)]
    comparison = Comparison(2, MODEL, [GROUP])
    for part in parts:
        comparison.add(part)
    first, second = (
        [{n: a[t][n] + b[t][n] for n in MODEL} for t in range(3)] for a, b in (parts[:2], parts[2:])
    )
    row = comparison.row()
    assert row["sets"] == 2
    assert row["same_task_cosine"]["detection"]["mean"] == pytest.approx(
        np.mean([cosine(first[0], second[0], c) for c in range(3)]), abs=1e-6
    )
    lanes = np.array([[cosine(own[0], own[2], c) for c in (0, 2)] for own in (first, second)])
    assert_spread(row["cosine"]["detection/lane"], lanes.mean(1))
    conflicts = np.maximum(0, -lanes).mean(1)
    assert_spread(row["gcp"]["detection/lane"], conflicts)
    null = [[cosine(first[a], second[b], c) for a, b in ((0, 2), (2, 0))] for c in (0, 2)]
    by_chance = np.mean(np.maximum(0, -np.array(null)))
    assert row["null"]["detection/lane"]["mean"] == pytest.approx(by_chance, abs=1e-6)
    # The first set has none before it to be compared with.
    assert row["gcp_over_null"]["detection/lane"] == {
        "mean": pytest.approx(conflicts[1] - by_chance, abs=1e-6),
        "deviation": None,
        "count": 1,
    }


def assert_spread(found: dict[str, float], values: np.ndarray) -> None:
    assert found["mean"] == pytest.approx(values.mean(), abs=1e-6)
    assert found["deviation"] == pytest.approx(values.std(ddof=1), abs=1e-6)
    assert found["count"] == len(values)


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register()
    write_dataset(tmp_path / "roads", 6, 192, 128, seed=3, workers=1)
    spec = model_spec("tiny", ["vehicle"], 64, 96)
    save_checkpoint(tmp_path / "net", spec, spec.build())
    command = [str(tmp_path / "net"), "--data", str(tmp_path / "roads"), "--images", "6"]
    out = tmp_path / "conflict.json"
    assert main([*command, "--images-per-gradient", "1", "3", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(row["images_per_gradient"], row["sets"]) for row in rows] == [(1, 6), (3, 2)]
    assert all(0 <= value["mean"] <= 1 for row in rows for value in row["gcp"].values())
    assert main([*command, "--images-per-gradient", "4", "--json", str(out)]) == 2
    assert (
        "--images-per-gradient 4: give a multiple of 4, and at most half" in capsys.readouterr().err
    )
    assert main([*command[:-1], "7", "--images-per-gradient", "1"]) == 2
    assert "has 6 images with all labels, not --images 7" in capsys.readouterr().err
