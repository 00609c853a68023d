"""Reading the data layout: what is missing is unlabelled, what is broken is named."""

import json
import re
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from mtc_perception.datasets.layout import (
    LayoutError,
    find_layout,
    label_splits,
    read_image,
    read_mask,
    read_split,
)
from mtc_perception.datasets.sample import BINARY, MaskFile, Problem


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


def test_what_cannot_be_read_is_unlabelled_and_named(root: Path) -> None:
    for name in ("images/train/b.png", "drivable/train/a.png"):
        (root / name).write_bytes(b"")
    problems: list[Problem] = []
    a, b, _ = read_split(root, "train", problems)
    assert a.drivable is None
    assert a.lane is not None
    assert b.drivable is not None, "an image is told to be empty by what decodes it"
    assert list(map(str, problems)) == [f"{root}/drivable/train/a.png: empty file"]


def test_labels_of_which_none_can_be_read_are_refused(root: Path) -> None:
    for name in ("a", "b"):
        (root / f"drivable/train/{name}.png").write_bytes(b"")
    with pytest.raises(LayoutError, match=r"e/train/a\.png: empty file \(and 1 more like it\)"):
        read_split(root, "train")


def test_hidden_files_are_nothing(root: Path) -> None:
    for folder in ("images/train", "drivable/train", "lane/train"):
        (root / folder / "._a.png").write_bytes(b"\0\5\x16\7")
        (root / folder / "Thumbs.db").write_bytes(b"x")
    (root / "det/._train.json").write_bytes(b"\0\5\x16\7")
    for name in (".thumbnails", "__MACOSX"):
        (root / "images" / name).mkdir()
    assert find_layout(root).splits(root) == ["train"]
    problems: list[Problem] = []
    assert [sample.stem for sample in read_split(root, "train", problems)] == ["a", "b", "c"]
    assert problems == []
    (root / "images").rename(root / "pictures")
    assert label_splits(root) == ["train"]


def test_two_images_of_one_stem_are_refused(root: Path) -> None:
    (root / "images/train/a.jpg").write_bytes(b"x")
    with pytest.raises(LayoutError, match=r"a\.png: another image has the same stem \(a\.jpg\)"):
        read_split(root, "train")


def test_two_masks_of_one_image_are_refused(root: Path) -> None:
    (root / "lane/train/a.PNG").write_bytes(b"x")
    with pytest.raises(LayoutError, match=r"a\.png: another label has the same stem \(a\.PNG\)"):
        read_split(root, "train")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bbox": [1, float("nan"), 1, 2]}, r"bbox is \[1, nan, 1, 2\]: nan is no number"),
        ({"bbox": [1, 1, 10**400, 2]}, "0 is no number that can be used"),
        ({"bbox": [1e308, 1, 1e308, 2]}, r"1e\+308 is no number that can be used"),
        ({"bbox": None, "segmentation": [[1, 1, 5, 1, 5, 5, 1]]}, "not made of pairs x, y"),
        ({"bbox": None, "segmentation": {"size": [6, 8], "counts": "0"}}, "nor polygons"),
        ({"bbox": [1, 1, 2]}, r"bbox is \[1, 1, 2\]"),
        ({"bbox": ["1", 1, 2, 2]}, r"bbox .* '1' is no number"),
        ({"bbox": [1, 1, True, 2]}, r"bbox .* True is no number"),
        ({"bbox": None}, "neither a bbox nor polygons"),
        ({"image_id": 99}, "image_id is 99, which no image has"),
        ({"image_id": "1"}, "image_id is '1', which no image has"),
        ({"image_id": "0001"}, "image_id is '0001', which no image has"),
        ({"category_id": 5}, "category_id is 5, which no category has"),
        ({"iscrowd": "0"}, "iscrowd is '0'"),
    ],
)
def test_a_broken_annotation_is_named_and_costs_no_other_image(
    root: Path, change: dict, reason: str
) -> None:
    sound = [{"id": index, "image_id": 2, "bbox": [1, 1, 2, 2]} for index in (3, 4)]
    write_detections(root, [*sound, {"id": 5, "image_id": 1, "bbox": [1, 1, 2, 2]} | change])
    problems: list[Problem] = []
    a, b, _ = read_split(root, "train", problems)
    [problem] = problems
    assert re.search(rf"det/train\.json: broken annotation 5 \(.*{reason}", str(problem))
    assert b.boxes is not None
    assert len(b.boxes) == 2
    if change.get("image_id") == 99:
        assert a.boxes is not None
    else:
        assert a.boxes is None, "what is in it is not known"


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        ({"image_id": True}, "image_id is True"),
        ({"image_id": [1]}, r"image_id is \[1\]"),
        ({"image_id": "a.png"}, "image_id is 'a.png'"),
        ({"image_id": None}, "image_id is None"),
        ({}, "it has no image_id"),
    ],
)
def test_an_annotation_that_may_be_of_any_image_is_refused(
    root: Path, annotation: dict, reason: str
) -> None:
    sound = {"id": 3, "image_id": 2, "bbox": [1, 1, 2, 2]}
    write_detections(root, [sound, {"id": 5, "bbox": [1, 1, 2, 2]} | annotation])
    with pytest.raises(LayoutError, match=rf"det/train\.json: broken annotation 5 \({reason}"):
        read_split(root, "train")


def test_annotations_of_none_of_the_images_are_refused(root: Path) -> None:
    write_detections(root, [{"id": n, "image_id": 98 + n, "bbox": [1, 1, 2, 2]} for n in (1, 2)])
    with pytest.raises(LayoutError, match=r"det/train\.json: none of 2 annotations is of an image"):
        read_split(root, "train")


@pytest.mark.parametrize(("listed", "named"), [(str, int), (int, str), (int, "{:04d}".format)])
def test_identifiers_that_are_written_in_two_ways_make_no_negatives(
    root: Path, listed: Callable, named: Callable
) -> None:
    images = [{"id": listed(n), "file_name": f"{stem}.png"} for n, stem in enumerate("abc")]
    kinds = (listed, named, named)
    boxes = [{"id": n, "image_id": kind(n), "bbox": [1, 1, 2, 2]} for n, kind in enumerate(kinds)]
    write_coco(root, images=images, annotations=boxes)
    problems: list[Problem] = []
    a, b, c = read_split(root, "train", problems)
    assert a.boxes is not None
    assert b.boxes is None
    assert c.boxes is None
    assert [problem.stem for problem in problems] == ["b", "c"]


def write_coco(root: Path, **parts: object) -> None:
    path = root / "det/train.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))


def entries(*names: str) -> list[dict]:
    return [{"id": number, "file_name": name} for number, name in enumerate(names, start=1)]


@pytest.mark.parametrize(
    "names",
    [
        (r"..\images\train\a.png", r"..\images\train\b.png"),
        (r"C:\data\a.png", "/data/images/train/b.png"),
        ("train/a.jpg", "b.png"),
        ("train/a", "b"),
    ],
)
def test_paths_in_a_coco_file_end_in_the_name_of_the_image(
    root: Path, names: tuple[str, ...]
) -> None:
    write_coco(root, images=entries(*names))
    a, b, _ = read_split(root, "train")
    assert a.boxes is not None
    assert a.boxes.tolist() == [[1, 2, 4, 4]]
    assert b.boxes is not None


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (entries("a.png", "b.png", "a.png"), "a.png and a.png are both image a"),
        (entries("cam1/a.png", "cam2/a.png"), "cam1/a.png and cam2/a.png are both image a"),
        (entries(r"cam1\a.png", "cam2/a.png"), r"cam1\\a.png and cam2/a.png are both image a"),
        (entries("a.png", "a.jpg"), "a.png and a.jpg are both image a"),
        ([*entries("a.png"), {"id": 1, "file_name": "b.png"}], "images a and b have one id, 1"),
        (entries("x.png", "A.png"), "labels fit no image of .*images/train: the first .* of A"),
    ],
)
def test_labels_of_nobody_in_particular_are_refused(
    root: Path, images: list[dict], reason: str
) -> None:
    write_coco(root, images=images)
    with pytest.raises(LayoutError, match=rf"det/train\.json: {reason}"):
        read_split(root, "train")


def test_categories_of_one_id_are_refused(root: Path) -> None:
    write_coco(root, categories=[{"id": 1, "name": "car"}, {"id": 1.0, "name": "person"}])
    with pytest.raises(LayoutError, match=r"train\.json: categories car and person have one id, 1"):
        read_split(root, "train")


def test_what_is_behind_a_dot_is_no_suffix_unless_it_is_that_of_an_image(root: Path) -> None:
    for stem in "ab":
        shutil.copy(root / "images/train/c.png", root / f"images/train/cam.{stem}.png")
    write_coco(root, images=entries("cam.a", "cam.b"))
    samples = read_split(root, "train")
    assert [one.stem for one in samples if one.boxes is not None] == ["cam.a", "cam.b"]


@pytest.mark.parametrize(("disk", "listed"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_are_written_in_either_form(root: Path, disk: str, listed: str) -> None:
    image, mask, name = (unicodedata.normalize(form, "Öl") for form in (disk, listed, listed))
    (root / "images/train/a.png").rename(root / f"images/train/{image}.png")
    (root / "lane/train/a.png").rename(root / f"lane/train/{mask}.png")
    write_coco(root, images=entries(f"{name}.png", "b.png"))
    [sample] = (one for one in read_split(root, "train") if one.stem == "Öl")
    assert sample.boxes is not None
    assert sample.lane is not None


@pytest.mark.parametrize(("image", "listed"), [("a x", "a%20x"), ("a%20x", "a x"), ("a", "A")])
def test_a_label_of_another_spelling_is_named(root: Path, image: str, listed: str) -> None:
    (root / "images/train/a.png").rename(root / f"images/train/{image}.png")
    (root / "lane/train/a.png").unlink()
    write_coco(root, images=entries(f"{listed}.png", "b.png"))
    problems: list[Problem] = []
    samples = read_split(root, "train", problems)
    assert [one.stem for one in samples if one.boxes is not None] == ["b"]
    assert [str(one).partition("json: ")[2] for one in problems] == [
        f"a label of {listed}, and there is an image {image}: give them one name"
    ]


def test_masks_that_are_no_png_files_are_named(root: Path) -> None:
    (root / "lane/train/a.png").rename(root / "lane/train/b.JPG")
    with pytest.raises(LayoutError, match=r"b\.JPG: no \.jpg is read as a mask: convert it to PNG"):
        read_split(root, "train")
    (root / "lane/train/a.jpg").touch()
    (root / "lane/train/b.JPG").rename(root / "lane/train/b.png")
    problems: list[Problem] = []
    a, b, _ = read_split(root, "train", problems)
    assert a.lane is None
    assert b.lane is not None
    assert [problem.path.name for problem in problems] == ["a.jpg"]


def test_a_broken_entry_of_a_coco_file_costs_no_other_one(root: Path) -> None:
    write_coco(root, images=[*entries("a.png"), {"id": 2}, {"id": None, "file_name": "c.png"}, 7])
    problems: list[Problem] = []
    a, b, _ = read_split(root, "train", problems)
    assert a.boxes is not None
    assert b.boxes is None
    assert [str(one).partition("json: ")[2] for one in problems] == [
        "broken entry of images at 1 (KeyError: 'file_name')",
        "broken entry of images at 2 (id is None)",
        "broken entry of images at 3 (TypeError: 'int' object is not subscriptable)",
    ]


@pytest.mark.parametrize("text", ["{", "[]", '{"images": []}'])
def test_a_file_that_is_not_coco_is_refused(root: Path, text: str) -> None:
    (root / "det/train.json").write_text(text)
    with pytest.raises(LayoutError, match=r"det/train\.json: not a (COCO|JSON) file"):
        read_split(root, "train")


def test_boxes_keep_their_categories(root: Path) -> None:
    names = ["person", "Truck_Bus", " Car ", ""]
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    boxes = [
        {"id": n, "image_id": 1, "bbox": [1, 1, n + 1, 2], "category_id": n}
        for n in range(len(names))
    ]
    write_coco(root, categories=categories, annotations=boxes)
    sample = read_split(root, "train")[0]
    assert sample.categories == ("person", "Truck_Bus", "Car", "vehicle")
    write_coco(root, categories=categories[:1], annotations=[boxes[0] | {"category_id": None}])
    sample = read_split(root, "train")[0]
    assert sample.categories == ("person",), "there is no other"


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
