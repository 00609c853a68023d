"""Networks that lack tasks: their bundles, their engines and what is perceived with them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mtc_perception.core.bundle import read_bundle
from mtc_perception.core.engine import EngineChoice, Network
from mtc_perception.core.images import SourceImage
from mtc_perception.core.overlay import draw_overlay
from mtc_perception.core.self_test import self_test_frame
from mtc_perception.core.tasks import Task
from mtc_perception.engines.load import load_engine
from mtc_perception.engines.process_trial import run_trial
from mtc_perception.runtime.perceiver import Perceiver, Selection, open_perceiver
from mtc_perception.util.errors import BundleError
from support.toy_bundle import toy_model, write_toy_bundle

MASKS: tuple[Task, ...] = ("drivable", "lane")
IMAGE = SourceImage(self_test_frame(192, 320), "rgb")


@pytest.fixture(scope="module")
def whole(toy_bundle: Path) -> Iterator[Perceiver]:
    with open_perceiver(Selection(toy_bundle, "onnxruntime", threads=1)) as perceiver:
        yield perceiver


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("tasks", [("detection",), MASKS, ("lane",)])
def test_what_is_left_is_as_in_the_whole_network(
    tmp_path: Path, whole: Perceiver, engine: EngineChoice, tasks: tuple[Task, ...]
) -> None:
    path = write_toy_bundle(tmp_path / "toy.mtc", tasks=tasks)
    manifest = read_bundle(path).manifest
    assert manifest.tasks == list(tasks)
    assert (manifest.classes == []) == (manifest.max_detections == 0) == ("detection" not in tasks)
    expected = whole.perceive(IMAGE)
    with open_perceiver(Selection(path, engine, threads=1)) as perceiver:
        found = perceiver.perceive(IMAGE)
    assert (found.tasks, found.size) == (tasks, (192, 320))
    if "detection" in tasks:
        np.testing.assert_allclose(found.boxes, expected.boxes, rtol=1e-5)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    else:
        assert found.boxes.shape == (0, 4)
        assert len(found.scores) == len(found.labels) == 0
    for task in MASKS:
        if task in tasks:
            np.testing.assert_array_equal(getattr(found, task), getattr(expected, task))
        else:
            assert getattr(found, task) is None
    assert draw_overlay(IMAGE.pixels, found, manifest.classes).shape == IMAGE.pixels.shape


def test_a_trial_yields_the_values_of_the_tasks_alone() -> None:
    network = Network(toy_model(96, 160, tasks=MASKS), "fp32", 96, 160, 0, MASKS)
    golden = run_trial(network, "onnxruntime")
    assert golden.top_score is None
    assert golden.tasks == list(MASKS)


def test_a_graph_that_has_more_or_less_than_its_tasks_is_refused() -> None:
    graph = toy_model(96, 160, tasks=MASKS)
    with pytest.raises(BundleError, match="outputs must be lane, they are drivable, lane"):
        load_engine(Network(graph, "fp32", 96, 160, 0, ("lane",)), "onnxruntime", threads=1)
    with pytest.raises(BundleError, match="outputs must be boxes, scores, labels, drivable, lane"):
        load_engine(Network(graph, "fp32", 96, 160, 5), "onnxruntime", threads=1)
