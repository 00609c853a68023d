"""The bench of public networks: bundles that do what they do, ours beside them."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench.peers_accuracy import main
from support.labelled_roads import DataSet, road
from support.tiny_study import write_study
from support.toy_bundle import write_toy_bundle


@pytest.fixture
def data(tmp_path: Path) -> Path:
    made = DataSet(tmp_path / "roads")
    rgb, drivable, lane, box = road()
    made.add("a", rgb, drivable, lane, [box])
    made.add("b", rgb, drivable, np.zeros_like(lane), [box])
    return made.root


def test_each_is_scored_in_what_it_does(tmp_path: Path, data: Path) -> None:
    masks = write_toy_bundle(tmp_path / "m.mtc", tasks=("drivable", "lane"), name="masks")
    boxes = write_toy_bundle(tmp_path / "b.mtc", tasks=("detection",), name="boxes")
    ours = write_toy_bundle(tmp_path / "o.mtc", name="ours")
    where = ("--results", str(tmp_path), "--no-latency", "--data", str(data))
    assert main([str(masks), str(boxes), "--model", str(ours), *where]) == 0
    found = json.loads((tmp_path / "peers_accuracy.json").read_text())
    assert found["images"] == {"roads val": 2}
    sets = {name: one["sets"]["roads val"] for name, one in found["networks"].items()}
    assert {name: set(one) for name, one in sets.items()} == {
        "masks": {"drivable", "lane"},
        "boxes": {"detection"},
        "ours": {"detection", "drivable", "lane"},
    }
    assert sets["masks"]["drivable"]["miou"] == 1.0
    assert sets["ours"] == sets["masks"] | sets["boxes"]
    assert "latency_ms" not in found["networks"]["masks"]


def test_public_networks_on_the_frames_of_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_study(tmp_path)
    bundle = write_toy_bundle(tmp_path / "m.mtc", name="public")
    monkeypatch.chdir(tmp_path)
    where = ("--results", str(tmp_path), "--no-latency", "--study", str(study))
    assert main([str(bundle), *where]) == 0
    found = json.loads((tmp_path / "peers_accuracy.json").read_text())
    # Of drive A every second image of a split, of drive B all.
    assert found["images"] == {"drives": 7, "other": 2}


def test_two_of_one_name_are_refused(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(write_toy_bundle(tmp_path / "m.mtc"))
    assert main([bundle, bundle, "--data", str(data)]) == 2
    assert "two of the bundles have one name" in capsys.readouterr().err
