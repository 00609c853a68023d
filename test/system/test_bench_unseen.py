"""`python -m bench.unseen` on a network whose answers are known by hand: road is what is red, paint
what is green, and its boxes lie in the upper left."""

import json
from typing import Any

import numpy as np
import pytest

from bench.unseen import lie_on, main, painted
from offline_compress.data.bonnet import BONNET_HEIGHT
from support.labelled_roads import DataSet
from support.toy_bundle import write_toy_bundle

HEIGHT, WIDTH = 96, 160
LABELS = [[0, 0, 160, 96], [0, 0, 9, 6], [20, 20, 30, 33]]
"""Of an all white image the network finds the first."""


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("unseen")
    bundle = write_toy_bundle(folder / "toy.mtc", HEIGHT, WIDTH)
    white, black = (np.full((HEIGHT, WIDTH, 3), value, np.uint8) for value in (255, 0))
    labelled, masks = DataSet(folder / "labelled"), DataSet(folder / "masks")
    for data in (labelled, masks):
        data.root.mkdir()
    labelled.add("one", white, boxes=LABELS)
    masks.add("one", black, drivable=black[..., 0])
    masks.add("two", white, drivable=black[..., 0])
    arguments = [str(bundle), "--results", str(folder)]
    for data in (labelled, masks):
        arguments += ["--data", str(data.root)]
    assert main(arguments) == 0
    found = json.loads((folder / "unseen.json").read_text())
    assert found["images"] == {"labelled": 1, "masks": 2}
    [network] = found["networks"].values()
    return network["sets"]


def test_what_is_hidden_is_compared_with_what_is_called_road(result: dict[str, Any]) -> None:
    called, of = np.zeros(2), 0
    for number, grey in enumerate((0, 255)):
        image = np.full((HEIGHT, WIDTH, 3), grey, np.uint8)
        with_bonnet, hidden = painted(image, np.random.default_rng(number))
        called += [(with_bonnet[hidden][:, channel] >= 128).sum() for channel in (0, 1)]
        of += hidden.sum()
    found = result["masks"]
    assert [found["called_road"], found["called_paint"]] == pytest.approx(list(called / of))


def test_vehicles_are_told_by_their_height(result: dict[str, Any]) -> None:
    vehicles = result["labelled"]["vehicles"]
    by_height = {one["from_px"]: one["objects"] for one in vehicles["by_height"]}
    assert by_height == {5: 1, 8: 1, 16: 0, 32: 1}
    recalls = [one["recall"] for one in vehicles["by_height"]]
    assert recalls == [0, 0, None, 1]
    assert vehicles["recall"] == pytest.approx(1 / 3)
    assert result["masks"]["vehicles"] is None
    assert result["masks"]["score_threshold"] == 0.3


def test_boxes_of_which_most_is_hidden_lie_on_the_bonnet() -> None:
    hidden = np.zeros((HEIGHT, WIDTH), bool)
    hidden[80:] = True
    boxes = [[10, 70, 30, 89], [10, 70, 30, 91], [0, 80, 160, 96], [0, 0, 160, 96]]
    assert lie_on(np.array(boxes, np.float32), hidden).tolist() == [False, True, True, False]
    assert lie_on(np.zeros((0, 4), np.float32), hidden).tolist() == []


def test_bonnets_are_none_of_the_augmentation_and_always_the_same() -> None:
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    shares = []
    for seed in range(40):
        after, hidden = painted(image, np.random.default_rng(seed))
        np.testing.assert_array_equal(after, painted(image, np.random.default_rng(seed))[0])
        np.testing.assert_array_equal(after[~hidden], image[~hidden])
        assert (after != image)[hidden].any(1).mean() > 0.9
        # All below an edge.
        assert (np.diff(hidden.astype(int), axis=0) >= 0).all()
        shares.append(hidden.mean(0).max())
    assert max(shares) > BONNET_HEIGHT[1]
