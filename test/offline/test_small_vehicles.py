"""Far vehicles reach the loss: what evaluation counts, most epochs teach."""

from pathlib import Path

import numpy as np
import pytest

from offline_compress.data import augment
from offline_compress.recipe.parts import DataSource
from offline_compress.recipe.recipe import load_recipe
from offline_compress.training.samples import training_set
from support.labelled_roads import DataSet

RECIPES = sorted((Path(__file__).parents[2] / "config" / "recipes").glob("*.yaml"))
SIZES = {
    "bdd100k": (1280, 720),
    "camvid": (480, 360),
    "cityscapes": (512, 256),
    "own": (640, 384),
    "synthetic": (640, 384),
    "tour_roads": (416, 256),
}
"""Width and height of the images of the first set that a recipe draws from."""
SAMPLES = 20


def of_vehicles(root: Path, width: int, height: int, side: float) -> DataSource:
    """A data set of one image full of vehicles of one size."""
    data = DataSet(root, "train")
    x, y = np.meshgrid(np.arange(4, width - 20, 40), np.arange(4, height - 20, 40))
    low = np.stack((x.ravel(), y.ravel()), 1).astype(float)
    image = np.full((height, width, 3), 90, np.uint8)
    data.add("far", image, boxes=np.concatenate((low, low + side), 1).tolist())
    return DataSource(root=root, split="train")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_vehicle_of_five_pixels_is_learnt_in_most_epochs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The share that the border of a crop cuts away is the same for vehicles of every size.
    monkeypatch.setattr(augment, "MIN_VISIBLE", 0)
    recipe = load_recipe(path, ["classes=[vehicle]", "ignore=", "background="])
    width, height = SIZES[recipe.train[0].root.name]
    shares = []
    for side in (5, 9):
        source = of_vehicles(tmp_path / str(side), width, height, side)
        data = training_set(recipe.model_copy(update={"train": [source], "bonnet": 0.0}))
        list(data.decoded.fill())
        kinds = np.concatenate([data[number].kinds for number in range(SAMPLES)])
        assert len(kinds) > 10 * SAMPLES
        shares.append((kinds == 0).mean())
    assert shares[0] > 0.5
    assert shares[1] > 0.85
