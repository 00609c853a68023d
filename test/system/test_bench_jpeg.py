"""The benchmark of decoding at reduced scale, on a data set and a network that are tiny."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from bench import jpeg
from bench.run import main
from mtc_perception.core.bundle import read_bundle
from support.odd_images import data_set


def test_both_ways_are_measured_on_the_same_images(
    tmp_path: Path, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jpeg, "QUALITIES", range(90, 92))
    root = data_set(tmp_path / "data")
    met = jpeg.bench_jpeg(read_bundle(toy_bundle), root, tmp_path, Console())
    found = json.loads((tmp_path / "jpeg.json").read_text())
    assert (found["images"], found["qualities"], found["size"]) == (4, [90, 91], "1280x720")
    # What is drivable is told by its colour: both ways see it.
    for way in ("full", "reduced"):
        assert found["accuracy"]["drivable.miou"][way] > 0.9
        assert found["decode_ms"][way] > 0
    assert not any(name.startswith(("detection", "lane")) for name in found["accuracy"])
    losses = [one["full"] - one["reduced"] for one in found["accuracy"].values()]
    assert met or 100 * max(losses) > jpeg.MOST_POINTS


def test_a_data_set_has_to_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["jpeg"])
    assert ended.value.code == 2
    assert "--data" in capsys.readouterr().err
