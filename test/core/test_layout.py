"""Reading the data layout: what is missing is unlabelled, what is broken is named."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mtc_perception.datasets.layout import LayoutError, read_image, read_mask, read_split
from mtc_perception.datasets.sample import BINARY, MaskFile


def write_dataset(root: Path) -> None:
    """Three 8x6 images: `a` fully labelled, `b` listed without boxes, `c` not labelled at all."""
    for folder in ("images", "drivable", "lane"):
        (root / folder / "train").mkdir(parents=True)
    (root / "det").mkdir()
    rgb = np.zeros((6, 8, 3), dtype=np.uint8)
    rgb[..., 0] = 250
    for stem in "abc":
        cv2.imwrite(str(root / "images/train" / f"{stem}.png"), rgb[..., ::-1])
    mask = np.zeros((6, 8), dtype=np.uint8)
    mask[3:] = 255
    cv2.imwrite(str(root / "drivable/train/a.png"), mask)
    cv2.imwrite(str(root / "lane/train/a.png"), 255 - mask)
    cv2.imwrite(str(root / "drivable/train/b.png"), mask)
    write_detections(root, [{"id": 7, "image_id": 1, "bbox": [1, 2, 3, 2], "iscrowd": 0}])


def write_detections(root: Path, annotations: list[dict]) -> None:
    content = {
        "images": [
            {"id": index + 1, "file_name": f"{stem}.png", "width": 8, "height": 6}
            for index, stem in enumerate("ab")
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "vehicle"}],
    }
    (root / "det/train.json").write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_dataset(tmp_path)
    return tmp_path


def test_labels_and_gaps(root: Path) -> None:
    a, b, c = read_split(root, "train")
    assert [a.stem, b.stem, c.stem] == ["a", "b", "c"]
    assert a.boxes is not None
    assert a.boxes.dtype == np.float32
    np.testing.assert_array_equal(a.boxes, [[1, 2, 4, 4]])
    assert a.ignore is not None
    assert a.ignore.tolist() == [False]
    assert a.drivable == MaskFile(root / "drivable/train/a.png", BINARY)
    assert a.lane == MaskFile(root / "lane/train/a.png", BINARY)
    # Listed without boxes: known to be empty. Not listed: unknown.
    assert b.boxes is not None
    assert b.boxes.shape == (0, 4)
    assert b.ignore is not None
    assert b.ignore.shape == (0,)
    assert b.lane is None
    assert c.boxes is None
    assert c.ignore is None
    assert c.drivable is None


def test_iscrowd_is_ignore(root: Path) -> None:
    write_detections(
        root,
        [
            {"id": 1, "image_id": 2, "bbox": [0, 0, 2, 2], "iscrowd": 1},
            {"id": 2, "image_id": 2, "bbox": [4, 1, 2, 2]},
        ],
    )
    sample = read_split(root, "train")[1]
    assert sample.ignore is not None
    assert sample.ignore.tolist() == [True, False]


def test_no_detection_file_is_unlabelled(root: Path) -> None:
    (root / "det/train.json").unlink()
    assert all(sample.boxes is None for sample in read_split(root, "train"))


def test_image_is_rgb_and_mask_is_bool(root: Path) -> None:
    sample = read_split(root, "train")[0]
    assert read_image(sample.image_path)[0, 0].tolist() == [250, 0, 0]
    assert sample.drivable is not None
    mask = read_mask(sample.drivable, (6, 8))
    assert mask.dtype == np.bool_
    assert mask.sum() == 24


def test_mask_of_another_size_is_refused(root: Path) -> None:
    with pytest.raises(LayoutError, match=r"a\.png: mask is 8x6, its image 16x12"):
        read_mask(MaskFile(root / "drivable/train/a.png", BINARY), (12, 16))


def test_a_mask_of_zeros_and_ones_is_refused(root: Path) -> None:
    path = root / "lane/train/a.png"
    cv2.imwrite(str(path), np.eye(6, 8, dtype=np.uint8))
    with pytest.raises(LayoutError, match="values up to 1 where 0 or 255"):
        read_mask(MaskFile(path, BINARY), (6, 8))


def test_unreadable_image_is_named(root: Path) -> None:
    path = root / "images/train/a.png"
    for content in (b"", b"not an image"):
        path.write_bytes(content)
        with pytest.raises(
            LayoutError, match=r"a\.png: compressed image is neither JPEG, PNG nor WebP"
        ):
            read_image(path)
    with pytest.raises(LayoutError, match="No such file"):
        read_image(root / "gone.png")


def test_first_broken_file_is_named_and_the_rest_counted(root: Path) -> None:
    for name in ("images/train/b.png", "drivable/train/a.png", "lane/train/a.png"):
        (root / name).write_bytes(b"")
    with pytest.raises(LayoutError, match=r"images/train/b\.png: empty file \(and 2 more broken\)"):
        read_split(root, "train")


def test_two_images_of_one_stem_are_refused(root: Path) -> None:
    (root / "images/train/a.jpg").write_bytes(b"x")
    with pytest.raises(LayoutError, match=r"a\.png: another image has the same stem \(a\.jpg\)"):
        read_split(root, "train")


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        ({"id": 5, "image_id": 1, "bbox": [1, float("nan"), 1, 2]}, "broken annotation"),
        ({"id": 5, "image_id": 1, "bbox": [1, 1, 2]}, "broken annotation"),
        ({"id": 5, "image_id": 99, "bbox": [1, 1, 2, 2]}, "broken annotation"),
        ("nonsense", "broken annotation"),
    ],
)
def test_broken_annotations_are_refused(root: Path, annotation: dict, reason: str) -> None:
    write_detections(root, [annotation])
    with pytest.raises(LayoutError, match=rf"det/train\.json: .*{reason}"):
        read_split(root, "train")


@pytest.mark.parametrize("text", ["{", "[]", '{"images": []}'])
def test_a_file_that_is_not_coco_is_refused(root: Path, text: str) -> None:
    (root / "det/train.json").write_text(text)
    with pytest.raises(LayoutError, match=r"det/train\.json: not a (COCO|JSON) file"):
        read_split(root, "train")


def test_several_categories_are_refused(root: Path) -> None:
    path = root / "det/train.json"
    content = json.loads(path.read_text())
    content["categories"].append({"id": 2, "name": "person"})
    path.write_text(json.dumps(content))
    with pytest.raises(LayoutError, match="2 categories"):
        read_split(root, "train")


def test_missing_data_sets_and_splits_say_what_exists(root: Path, tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="does not exist"):
        read_split(tmp_path / "nowhere", "train")
    with pytest.raises(LayoutError, match="has no split 'val'; it has: train"):
        read_split(root, "val")
    with pytest.raises(LayoutError, match="is no data set"):
        read_split(root / "det", "train")
    (root / "images/val").mkdir()
    with pytest.raises(LayoutError, match="holds no image"):
        read_split(root, "val")
