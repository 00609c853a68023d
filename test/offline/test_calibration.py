"""Which images calibrate, and that they look as on the vehicle."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtc_perception.core.images import SourceImage
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.datasets.layout import read_image
from mtc_perception.util.errors import UserError
from offline_compress.data.labelled import evenly
from offline_compress.data.labelled_batches import LabelledBatches
from offline_compress.data.targets import IGNORE
from offline_compress.importance.calibration import (
    apportion,
    calibration_batches,
    calibration_samples,
)
from offline_compress.recipe.compression import Scoring
from offline_compress.recipe.recipe import Recipe
from support.labelled_roads import DataSet
from support.mini_data import BOX, HEIGHT, WIDTH, write_png, write_text
from support.tiny_training import tiny_recipe


def write_drive(root: Path, count: int, *tasks: str) -> Path:
    """`count` noisy 64 x 36 images, of which the last has no labels, in the project's layout."""
    rng = np.random.default_rng(count)
    names = [f"{number:03}" for number in range(count)]
    for name in names:
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        write_png(root / "images/train" / f"{name}.png", pixels)
    for task in {"drivable", "lane"}.intersection(tasks):
        for name in names[:-1]:
            mask = rng.integers(0, 2, (HEIGHT, WIDTH), dtype=np.uint8) * 255
            write_png(root / task / "train" / f"{name}.png", mask)
    if "detection" in tasks:
        x1, y1, x2, y2 = BOX
        coco = {
            "images": [{"id": i, "file_name": f"{name}.png"} for i, name in enumerate(names[:-1])],
            "annotations": [{"id": 1, "image_id": 0, "bbox": [x1, y1, x2 - x1, y2 - y1]}],
            "categories": [{"id": 1, "name": "vehicle"}],
        }
        write_text(root / "det/train.json", coco)
    return root


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """17 images labelled for all tasks, and 9 labelled for lanes only."""
    root = tmp_path_factory.mktemp("data")
    return (
        write_drive(root / "all", 17, "detection", "drivable", "lane"),
        write_drive(root / "lanes", 9, "lane"),
    )


def recipe_of(*roots: Path, weights: tuple[float, ...] = (1.0, 1.0)) -> Recipe:
    sources = [
        {"root": str(root), "split": "train", "weight": weight}
        for root, weight in zip(roots, weights, strict=False)
    ]
    return tiny_recipe(roots[0], train=sources)


def test_sources_have_their_shares_in_every_part(drives: tuple[Path, Path]) -> None:
    samples = calibration_samples(recipe_of(*drives, weights=(0.75, 0.25)), 16)
    roots = [sample.image_path.parents[2].name for sample in samples]
    for end in (4, 8, 12, 16):
        assert Counter(roots[:end]) == {"all": 0.75 * end, "lanes": 0.25 * end}
    assert len({sample.image_path for sample in samples}) == 16
    assert all(sample.labelled for sample in samples)
    # From the whole length of the drive.
    assert {int(s.stem) // 4 for s in samples if s.boxes is not None} == {0, 1, 2, 3}


def test_the_same_images_calibrate_each_time_and_no_more_than_there_are(
    drives: tuple[Path, Path],
) -> None:
    stems = [
        [(s.image_path, s.stem) for s in calibration_samples(recipe_of(*drives), 1000)]
        for _ in range(2)
    ]
    assert stems[0] == stems[1]
    assert len(set(stems[0])) == 16 + 8  # what has no label is no help


def test_batches_hold_whole_images_as_on_the_vehicle(drives: tuple[Path, Path]) -> None:
    recipe = recipe_of(*drives)
    batches = calibration_batches(recipe, Scoring(images=10, batch=4))
    assert [len(batch.images) for batch in batches] == [4, 4]  # and no smaller one
    assert len(calibration_batches(recipe, Scoring(images=3, batch=4))[0].images) == 3
    samples = calibration_samples(recipe, 10)[:8]
    height, width = recipe.input.height, recipe.input.width  # 128 x 192
    box = Letterbox.fit(HEIGHT, WIDTH, height, width)
    assert box.top > 0
    for number, sample in enumerate(samples):
        batch, row = batches[number // 4], number % 4
        expected = np.empty((height, width, 3), np.uint8)
        box.write(SourceImage(read_image(sample.image_path), "rgb"), expected)
        assert np.array_equal(batch.images[row].permute(1, 2, 0).numpy(), expected)
        targets = batch.targets
        inside = torch.zeros(height, width, dtype=torch.bool)
        inside[box.top : box.top + box.height] = True
        assert torch.equal(targets.lane[row] != IGNORE, inside)
        assert torch.equal(targets.drivable[row] != IGNORE, inside & (sample.boxes is not None))
        assert targets.has_boxes[row] == (sample.boxes is not None)
        if sample.boxes is not None and len(sample.boxes):
            moved = box.boxes_to_network(sample.boxes.astype(np.float32))
            torch.testing.assert_close(targets.boxes[row, :1], torch.from_numpy(moved))


def test_pieces_of_objects_count_as_little_as_in_training(tmp_path: Path) -> None:
    made = DataSet(tmp_path / "drives", "train")
    mask = np.ones((96, 160), bool)
    near_and_sliver = [[20, 30, 60, 70], [61, 30, 64, 70]]
    made.add("a", np.full((96, 160, 3), 90, np.uint8), mask, mask, near_and_sliver)
    for of_masks in (False, True):
        source = {"root": str(made.root), "split": "train", "boxes_of_masks": of_masks}
        recipe = tiny_recipe(made.root, train=[source])
        [batch] = calibration_batches(recipe, Scoring(images=1, batch=1))
        assert (batch.targets.kinds == -2).sum() == of_masks


def test_a_batch_past_the_end_is_an_index_error(drives: tuple[Path, Path]) -> None:
    recipe = recipe_of(*drives)
    batches = LabelledBatches(calibration_samples(recipe, 4), recipe.input, 2)
    assert len(batches) == 2
    with pytest.raises(IndexError):
        batches[2]


def test_a_task_without_labels_is_refused_before_anything_is_decoded(
    drives: tuple[Path, Path],
) -> None:
    with pytest.raises(UserError, match=r"no labels for detection and drivable.*`train`"):
        calibration_batches(recipe_of(drives[1]), Scoring())


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 1), st.integers(1, 30)), min_size=1, max_size=6),
    st.integers(1, 60),
)
def test_seats_are_shared_out(strata: list[tuple[float, int]], seats: int) -> None:
    weights, sizes = zip(*strata, strict=True)
    turns = apportion(weights, sizes, seats)
    counts = Counter(turns)
    assert len(turns) == min(seats, sum(sizes))
    assert all(counts[number] <= size for number, size in enumerate(sizes))
    if seats >= len(sizes):
        assert set(turns) == set(range(len(sizes)))
    # Who still has some left is never owed a whole seat more than another one has too many.
    free = [number for number, size in enumerate(sizes) if counts[number] < size]
    for number in free:
        for other in counts:
            if counts[other] > 1:
                assert weights[number] / (2 * counts[number] + 1) <= weights[other] / (
                    2 * counts[other] - 1
                )


@given(st.integers(1, 300), st.integers(1, 80))
def test_evenly_takes_from_all_of_a_set(size: int, most: int) -> None:
    samples: list[Any] = list(range(size))
    chosen = evenly(samples, most)
    assert chosen == evenly(samples, most)
    assert len(set(chosen)) == len(chosen) == min(size, most)
    gaps = np.diff([-1, *chosen, size])
    assert gaps.max() <= -(-size // len(chosen)) + 1
