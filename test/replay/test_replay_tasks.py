"""Networks that lack tasks in replay: no figures of what is lacking, nothing taken for a miss."""

from pathlib import Path

import pytest

from mtc_perception.replay.results.comparison import compare_runs
from support.bag_messages import COUNT
from support.replay_rig import evaluate, labelled_bag, records
from support.toy_bundle import write_toy_bundle


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_bag(tmp_path_factory.mktemp("bag") / "drive")


def test_labels_of_tasks_that_are_lacking_do_not_count(
    tmp_path: Path, toy_bundle: Path, bag: Path
) -> None:
    whole = evaluate(tmp_path / "whole", toy_bundle, bag)
    masks = write_toy_bundle(tmp_path / "masks.mtc", tasks=("drivable", "lane"))
    result = evaluate(tmp_path / "masks", masks, bag, "--annotate", "--reference", toy_bundle)
    assert "detection" not in result
    assert "detection" not in result["agreement"]
    assert {task: result[task] for task in ("drivable", "lane")} == {
        task: whole[task] for task in ("drivable", "lane")
    }
    assert result["agreement"]["lane"]["iou"] == 1.0
    assert result["labelled_frames"] == COUNT
    [note] = [note for note in result["notes"] if note["kind"] == "lacking task"]
    assert "the network has no detection" in note["first"]
    assert len(records(tmp_path / "masks")[0].boxes) == 0
    assert "the network has no detection" in (tmp_path / "masks" / "index.html").read_text()

    compared = compare_runs(tmp_path / "whole", tmp_path / "masks", lambda *_: None)
    names = {row["name"] for row in compared["figures"]}
    assert "stability.lane.iou" in names
    assert not [name for name in names if "detection" in name]
    assert "the network of run B has no detection" in compared["notes"]
    assert not [note for note in compared["notes"] if "differ" in note]
