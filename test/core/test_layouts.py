"""The layouts of BDD100K, YOLOP, A-YOLOM and RMT-PPAD: the same labels however they are stored."""

import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from zlib import compress, crc32

import cv2
import numpy as np
import pytest

from mtc_perception.core.class_map import VEHICLE_CLASSES
from mtc_perception.datasets.layout import (
    LayoutError,
    find_layout,
    index_split,
    read_mask,
    read_split,
    read_truth,
    split_of,
)
from mtc_perception.datasets.pixels import draw_shapes
from mtc_perception.datasets.sample import (
    BDD_DRIVABLE,
    BDD_LANE,
    NONZERO,
    MaskFile,
    MaskShapes,
    Problem,
)
from mtc_perception.replay.recordings.recording import Notes, SourceError
from mtc_perception.replay.recordings.sources import FolderSource
from support import mini_data as mini

SIZE = (mini.HEIGHT, mini.WIDTH)


def bdd100k_polygons(root: Path, split: str = "train") -> Path:
    return mini.bdd100k(root, split, masks=False)


LAYOUTS = {
    "project": (mini.project, "project"),
    "BDD100K masks": (mini.bdd100k, "BDD100K"),
    "BDD100K polygons": (bdd100k_polygons, "BDD100K"),
    "BDD100K 2018": (mini.bdd100k_2018, "BDD100K"),
    "BDD100K 2018, one file": (mini.bdd100k_2018_combined, "BDD100K"),
    "YOLOP": (mini.yolop, "YOLOP"),
    "A-YOLOM": (mini.a_yolom, "A-YOLOM"),
    "RMT-PPAD": (mini.rmt_ppad, "RMT-PPAD"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_labels(name: str, tmp_path: Path) -> None:
    write, layout = LAYOUTS[name]
    root = write(tmp_path)
    assert find_layout(root).name == layout
    a, b, c = read_split(root, "train")
    assert [a.stem, b.stem, c.stem] == ["a", "b", "c"]
    truth = read_truth(a, SIZE)
    assert truth.boxes is not None
    assert truth.boxes.dtype == np.float32
    assert truth.ignore is not None
    found = VEHICLE_CLASSES.objects(truth)
    np.testing.assert_allclose(found.boxes[~found.ignore], [mini.BOX], atol=1e-4)
    np.testing.assert_array_equal(truth.drivable, mini.DRIVABLE)
    assert truth.lane is not None
    if isinstance(a.lane, MaskShapes):  # drawn 8 pixels wide, with round ends
        assert a.lane.width_px == 8
        assert truth.lane[22:30, 28:36].all()
        assert not truth.lane[:, :26].any()
        assert not truth.lane[:, 38:].any()
    else:
        np.testing.assert_array_equal(truth.lane, mini.LANE)
    # Listed and empty is a label; not listed is none.
    empty = read_truth(b, SIZE)
    assert empty.boxes is not None
    assert empty.boxes.shape == (0, 4)
    assert empty.drivable is not None
    assert empty.lane is not None
    assert not empty.drivable.any()
    assert not empty.lane.any()
    assert not c.labelled


@pytest.mark.parametrize(
    "write", [mini.bdd100k, mini.bdd100k_2018, mini.bdd100k_2018_combined, mini.yolop]
)
def test_attributes_come_along(write: Callable[..., Path], tmp_path: Path) -> None:
    a, _, c = read_split(write(tmp_path), "train")
    assert a.attributes == mini.ATTRIBUTES
    assert c.attributes == {}


def test_crowds_and_vehicles_out_of_evaluation_are_ignore_regions(tmp_path: Path) -> None:
    a = read_split(mini.bdd100k(tmp_path), "train")[0]
    found = VEHICLE_CLASSES.objects(read_truth(a, SIZE))
    assert found.boxes.tolist() == [mini.BOX, [40, 2, 50, 9], [50, 2, 60, 9]]
    assert found.ignore.tolist() == [False, True, True]
    assert a.categories == ("car", "pedestrian", "traffic sign", "bus", "trailer")


def test_a_release_without_labels_is_unlabelled(tmp_path: Path) -> None:
    mini.write_images(tmp_path / "images/100k/test")
    samples, problems = index_split(tmp_path, "test")
    assert not any(sample.labelled for sample in samples)
    assert [problem.kind for problem in problems] == ["image without label"] * 3
    assert len(read_split(tmp_path, "test")) == 3, "which breaks nothing"


def test_new_labels_of_a_task_go_before_those_of_2018(tmp_path: Path) -> None:
    root = mini.bdd100k(mini.bdd100k_2018(tmp_path))
    a = read_split(root, "train")[0]
    assert a.boxes is not None
    assert len(a.boxes) == 5
    # Vehicle labels of 2020 alone: the lanes and areas of 2018 stay in use.
    for folder in ("drivable", "lane"):
        for path in sorted((root / "labels" / folder).rglob("*.png")):
            path.unlink()
    truth = read_truth(read_split(root, "train")[0], SIZE)
    np.testing.assert_array_equal(truth.drivable, mini.DRIVABLE)
    assert truth.lane is not None
    assert truth.lane.any()


def test_colour_maps_serve_where_nothing_else_is(tmp_path: Path) -> None:
    mini.write_images(tmp_path / "images/100k/val")
    colours = np.zeros((*SIZE, 3), np.uint8)
    colours[18:] = (86, 94, 219)
    mini.write_png(tmp_path / "labels/drivable/colormaps/val/a.png", colours)
    truth = read_truth(read_split(tmp_path, "val")[0], SIZE)
    np.testing.assert_array_equal(truth.drivable, mini.DRIVABLE)
    assert truth.lane is None


@pytest.mark.parametrize("category", range(8))
@pytest.mark.parametrize("direction", [0, 1])
@pytest.mark.parametrize("style", [0, 1])
def test_lane_bits(category: int, direction: int, style: int) -> None:
    # As BDD100K's own conversion writes them: category + (direction << 5) + (style << 4).
    value = category + (direction << 5) + (style << 4)
    assert BDD_LANE.expected[value]
    assert BDD_LANE.foreground[value] == (category != 4), "4 is the road curb"
    assert not BDD_LANE.foreground[255]
    assert BDD_LANE.expected[255]


def test_curves_are_drawn_as_curves(tmp_path: Path) -> None:
    root = mini.bdd100k(tmp_path, masks=False)
    # Half a circle's worth of Bezier curve that bulges to the right of its straight chord.
    curve = {"vertices": [[10, 4], [50, 4], [50, 32], [10, 32]], "types": "LCCC", "closed": False}
    frame = {"name": "a.jpg", "labels": [{"category": "double white", "poly2d": [curve]}]}
    mini.write_text(root / "labels/lane/polygons/lane_train.json", [frame])
    lane = read_truth(read_split(root, "train")[0], SIZE).lane
    assert lane is not None
    t = np.linspace(0, 1, 50)[:, None]
    p = np.array(curve["vertices"], float)
    points = (1 - t) ** 3 * p[0] + 3 * (1 - t) ** 2 * t * p[1] + 3 * (1 - t) * t**2 * p[2]
    points += t**3 * p[3]
    x, y = points.astype(int).T
    assert lane[y, x].all()
    assert not lane[16:20, 8:14].any(), "the chord"


def test_drawn_areas_match_pixel_centres() -> None:
    """A polygon covers the pixels whose centres lie in it, but for those on its edge."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        corners = (rng.random((3, 2)) * (60, 40)).astype(np.float32)
        shape = MaskShapes(Path("x"), corners, np.array([3], np.int32), None)
        drawn = draw_shapes(shape, (40, 60))
        distance = np.array(
            [
                [cv2.pointPolygonTest(corners, (x + 0.5, y + 0.5), True) for x in range(60)]
                for y in range(40)
            ]
        )
        assert drawn[distance > 0.1].all()
        assert not drawn[distance < -1].any()


def test_overlapping_areas_stay_filled() -> None:
    square = np.array([[2, 2], [12, 2], [12, 12], [2, 12]], np.float32)
    both = MaskShapes(Path("x"), np.concatenate((square, square)), np.array([4, 8], np.int32), None)
    assert draw_shapes(both, (20, 20))[4:10, 4:10].all()


def test_labels_that_have_no_image_are_named_but_break_nothing(tmp_path: Path) -> None:
    root = mini.rmt_ppad(tmp_path)
    (root / "images/train/a.jpg").unlink()
    samples, problems = index_split(root, "train")
    assert [sample.stem for sample in samples] == ["b", "c"]
    assert sorted(p.path.name for p in problems if p.kind == "label without image") == [
        "a.png",
        "a.png",
        "a.txt",
    ]
    assert len(read_split(root, "train")) == 2


def box_frame(**box: object) -> str:
    """Two frames of Scalabel: `a` with one box, `b` with none."""
    labels = [{"category": "car", "box2d": {"x1": 1, "y1": 1, "x2": 2, "y2": 3} | box}]
    return json.dumps([{"name": "a.jpg", "labels": labels}, {"name": "b.jpg"}])


@pytest.mark.parametrize(
    ("layout", "file", "content", "reason"),
    [
        (mini.rmt_ppad, "labels/train/a.txt", "0 0.5 0.5", "line 1: 3 columns"),
        (mini.rmt_ppad, "labels/train/a.txt", "\n0 .5 .5 wide .1", "line 2: .*'wide'"),
        (mini.rmt_ppad, "labels/train/a.txt", "3 .5 .5 .1 .1", "class 3, but only 0"),
        (mini.rmt_ppad, "labels/train/a.txt", "0.9 .5 .5 .1 .1", "class 0.9 is no whole number"),
        (mini.a_yolom, "detection-object/labels/train/a.txt", "1e300 .5 .5 .1 .1", "whole number"),
        (mini.rmt_ppad, "labels/train/a.txt", "-1 .5 .5 .1 .1", "class -1 is no whole number"),
        (mini.rmt_ppad, "labels/train/a.txt", "nan .5 .5 .1 .1", "class nan is no whole number"),
        (mini.rmt_ppad, "labels/train/a.txt", "0 .5 .5 nan .1", "nan is no fraction"),
        (mini.rmt_ppad, "labels/train/a.txt", "0 32 18 .1 .1", "32 is no fraction"),
        (mini.rmt_ppad, "labels/train/a.txt", "0 .5 .5 -.1 .1", "-.1 is no fraction"),
        (mini.rmt_ppad, "labels/train/a.txt", "0 .5 .5 .1 .1 .9", "6 columns, as of predictions"),
        (mini.a_yolom, "detection-object/labels/train/a.txt", "2 .5 .5 .1 .1 .9\n" * 5, "6 col"),
        (
            mini.a_yolom,
            "detection-object/labels/train/a.txt",
            "2 .5 .5 .1 .1\n2 .1 .1 .1 .2 .2 .2 .2 .1",
            "line 2: 9 columns, as of polygons",
        ),
        (mini.rmt_ppad, "mask/lane/train/a.png", "", "empty file"),
        (mini.yolop, "det_annotations/train/a.json", "{}", "broken labels of a"),
        (mini.yolop, "det_annotations/train/a.json", '{"frames": []}', "broken labels of a"),
        (mini.yolop, "det_annotations/train/a.json", "{", "not a JSON file"),
        (mini.yolop, "det_annotations/train/a.json", "[" * 100_000, "not a JSON file"),
        (mini.bdd100k, "labels/det_20/det_train.json", box_frame(x1=None), "label 0: None is no n"),
        (mini.bdd100k, "labels/det_20/det_train.json", box_frame(x1=float("nan")), "nan is no num"),
        (mini.bdd100k, "labels/det_20/det_train.json", box_frame(x1="1"), "'1' is no number"),
    ],
)
def test_a_broken_label_is_named_and_its_image_unlabelled(
    layout: Callable[[Path], Path], file: str, content: str, reason: str, tmp_path: Path
) -> None:
    root = layout(tmp_path)
    (root / file).write_text(content)
    problems: list[Problem] = []
    a, b, _ = read_split(root, "train", problems)
    [problem] = problems
    assert re.search(reason, str(problem))
    assert problem.path == root / file
    if "mask" in file:
        assert (a.lane is None, b.lane is None) == (True, False)
    else:
        assert (a.boxes is None, b.boxes is None) == (True, False)


@pytest.mark.parametrize(
    ("layout", "files", "content", "reason"),
    [
        (mini.rmt_ppad, ("labels/train/a.txt", "labels/train/b.txt"), "0 1 2", "line 1: 3 columns"),
        (mini.bdd100k, ("labels/det_20/det_train.json",), "{}", "not a Scalabel file"),
        (
            mini.bdd100k,
            ("labels/det_20/det_train.json",),
            '[{"labels": []}]',
            "frame 0 has no name",
        ),
        (
            mini.bdd100k,
            ("labels/det_20/det_train.json",),
            '[{"name": "cam1/a.jpg"}, {"name": "cam2/a.jpg"}]',
            "frames cam1/a.jpg and cam2/a.jpg are both labels of image a",
        ),
    ],
)
def test_labels_are_refused_where_nothing_of_them_can_be_read(
    layout: Callable[[Path], Path],
    files: tuple[str, ...],
    content: str,
    reason: str,
    tmp_path: Path,
) -> None:
    root = layout(tmp_path)
    for file in files:
        (root / file).write_text(content)
    with pytest.raises(LayoutError, match=rf"{files[0]}: .*{reason}"):
        read_split(root, "train")


def test_text_labels_of_any_editor_are_read(tmp_path: Path) -> None:
    root = mini.rmt_ppad(tmp_path)
    sound = read_split(root, "train")[0]
    path = root / "labels/train/a.txt"
    line = path.read_text()
    path.write_bytes(f"\ufeff\r\n  {line}  \r\n\r\n".encode())
    (root / "labels/train/classes.txt").write_text("vehicle\n")
    (root / "labels/train/._a.txt").write_bytes(b"\0\5\x16\7\xb0")
    problems: list[Problem] = []
    a = read_split(root, "train", problems)[0]
    np.testing.assert_array_equal(a.boxes, sound.boxes)
    assert problems == []
    _, found = index_split(root, "train")
    assert [one.path.name for one in found if one.kind == "label without image"] == ["classes.txt"]
    path.write_text(line, "utf-16")
    assert read_split(root, "train", problems)[0].boxes is None
    assert "can't decode" in str(problems[0])
    path.unlink()
    os.mkfifo(path)
    assert read_split(root, "train", problems)[0].boxes is None
    assert "not a regular file" in str(problems[1])


def test_a_vertex_has_two_coordinates(tmp_path: Path) -> None:
    root = mini.bdd100k(tmp_path, masks=False)
    line = {"vertices": [[1, 2, 3], [4, 5, 6]], "types": "LL", "closed": False}
    frames = [
        {"name": "a.jpg", "labels": [{"category": "double white", "poly2d": [line]}]},
        {"name": "b.jpg", "labels": []},
    ]
    mini.write_text(root / "labels/lane/polygons/lane_train.json", frames)
    problems: list[Problem] = []
    a, b, _ = read_split(root, "train", problems)
    assert (a.lane is None, b.lane is None) == (True, False)
    assert "broken labels of a (label 0: a vertex that is not x, y)" in str(problems[0])


def add_flat_box(root: Path, layout: str) -> None:
    """One more vehicle in `a`, as wide as nothing; public labels have such."""
    flat = {"category": "car", "box2d": mini.box2d([0, 5, 0, 9])}
    if layout == "BDD100K":
        path = root / "labels/det_20/det_train.json"
        content = json.loads(path.read_text())
        content[0]["labels"].insert(0, flat)
    elif layout == "YOLOP":
        path = root / "det_annotations/train/a.json"
        content = json.loads(path.read_text())
        content["frames"][0]["objects"].insert(0, flat)
    elif layout == "project":
        path = root / "det/train.json"
        content = json.loads(path.read_text())
        content["annotations"].insert(0, {"id": 7, "image_id": 0, "bbox": [0, 5, 0, 4]})
    else:
        path = root / "labels/train/a.txt"
        content = "0 0 .2 0 .1\n" + path.read_text()
    mini.write_text(path, content)


@pytest.mark.parametrize("write", [mini.project, mini.bdd100k, mini.yolop, mini.rmt_ppad])
def test_a_box_without_a_size_costs_no_other_box(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    root = write(tmp_path)
    sound = read_split(root, "train")[0]
    add_flat_box(root, find_layout(root).name)
    _, problems = index_split(root, "train")
    assert sorted(problem.kind for problem in problems) == ["image without label", "unusable box"]
    a = read_split(root, "train")[0]
    np.testing.assert_array_equal(a.boxes, sound.boxes)
    np.testing.assert_array_equal(a.ignore, sound.ignore)


def palette_png(indices: np.ndarray) -> bytes:
    """A PNG of palette indices, which cv2 cannot write; the palette inverts them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))

    height, width = indices.shape
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    rows = np.pad(indices, ((0, 0), (1, 0))).astype(np.uint8).tobytes()
    chunks = ((b"IHDR", head), (b"PLTE", bytes([2] * 3 + [1] * 3 + [0] * 3)))
    start = b"".join(chunk(kind, data) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", compress(rows)) + chunk(b"IEND", b"")


def encoded(pixels: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (palette_png(np.full(SIZE, 2)), "stored as palette indices: convert it to 8-bit grey"),
        (encoded(np.full(SIZE, 2, np.uint16)), "stored as 16-bit values"),
        (encoded(np.tile(np.array([0, 1, 2], np.uint8), (*SIZE, 1))), "stored as colours"),
        (encoded(np.full((*SIZE, 4), 1, np.uint8)), "stored as partly transparent pixels"),
        (encoded(np.zeros(SIZE, np.uint8), ".jpg"), "stored as something else than PNG"),
        (encoded(np.full(SIZE, 255, np.uint8)), "values 255 .expected: 0 direct"),
    ],
)
def test_masks_that_would_be_guessed_are_refused(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(LayoutError, match=reason):
        read_mask(MaskFile(path, BDD_DRIVABLE), SIZE)


def test_grey_stored_as_colour_is_grey(tmp_path: Path) -> None:
    mini.write_png(tmp_path / "a.png", np.repeat(mini.DRIVABLE[..., None], 3, 2).astype(np.uint8))
    mask = read_mask(MaskFile(tmp_path / "a.png", NONZERO), SIZE)
    np.testing.assert_array_equal(mask, mini.DRIVABLE)


def test_folders_of_two_layouts_are_refused(tmp_path: Path) -> None:
    root = mini.yolop(mini.rmt_ppad(tmp_path))
    with pytest.raises(LayoutError, match=r"several layouts, YOLOP \(det_annota.* and RMT-PPAD"):
        read_split(root, "train")


def test_missing_splits_say_what_exists(tmp_path: Path) -> None:
    mini.bdd100k(tmp_path)
    with pytest.raises(LayoutError, match="has no split 'val'; it has: train"):
        read_split(tmp_path, "val")


def test_split_of_an_image_folder(tmp_path: Path) -> None:
    assert split_of(tmp_path / "images/100k/val") == (tmp_path, "val")
    assert split_of(tmp_path / "images/train2017") == (tmp_path, "train2017")
    assert split_of(tmp_path / "pictures/val") is None


def test_replay_of_an_image_folder_finds_its_labels(tmp_path: Path) -> None:
    root = mini.bdd100k(tmp_path, "val")
    source = FolderSource(root / "images/100k/val")
    truths = [one.truth for one in source.labelled_frames(Notes())]
    assert [truth is None for truth in truths] == [False, False, True], "c has no label"
    first = truths[0]
    assert first is not None
    np.testing.assert_array_equal(first.drivable, mini.DRIVABLE)


def test_replay_of_a_data_set_names_its_image_folders(tmp_path: Path) -> None:
    root = mini.bdd100k(mini.bdd100k(tmp_path), "val")
    with pytest.raises(SourceError, match=r"give \S*images/100k/train or \S*images/100k/val$"):
        FolderSource(root)
