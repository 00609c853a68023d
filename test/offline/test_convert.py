"""Public downloads, in miniature, become data sets of the project's layout."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mtc_perception.core.class_map import VEHICLE_CLASSES
from mtc_perception.datasets.layout import LayoutError, Sample, read_split, read_truth
from mtc_perception.util.errors import UserError
from offline_compress.cli import app
from offline_compress.convert.label_images import boxes_of_components
from offline_compress.convert.write import Converted, convert
from offline_compress.data.check import check_data
from support import downloads
from support.checkout import ROOT as CHECKOUT
from support.downloads import BOX, DOWNLOADS, HEIGHT, PAINT, ROAD, WIDTH
from support.mini_data import write_text

CAMVID = CHECKOUT.parent / "shared" / "data" / "camvid"

TASKS = {
    "camvid": {"boxes", "drivable", "lane"},
    "cityscapes": {"boxes", "drivable"},
    "coco": {"boxes"},
    "comma10k": {"drivable", "lane"},
    "idd": {"drivable"},
    "kitti-object": {"boxes"},
    "kitti-road": {"drivable"},
    "mapillary": {"boxes", "drivable", "lane"},
    "rtk": {"drivable", "lane"},
    "yolo": {"boxes"},
}
SPLITS = {
    "camvid": {"train": 1, "val": 1, "test": 2},
    "coco": {"train2017": 2, "val2017": 2},
    "kitti-object": {"train": 4, "val": 1},
    "kitti-road": {"train": 4, "val": 1},
    "rtk": {"train": 2, "val": 1},
    "yolo": {"train": 2, "val": 2},
}


def made(kind: str, folder: Path, width_px: int | None = None) -> tuple[Path, Converted]:
    """The data set of a miniature of `kind`, and what was counted."""
    DOWNLOADS[kind](folder / "download")
    out = folder / "data" / kind
    return out, convert(kind, folder / "download", out, width_px, lambda _done, _total: None)


def labelled(root: Path, split: str) -> Sample:
    problems: list = []
    sample = read_split(root, split, problems)[0]
    assert not problems
    return sample


@pytest.mark.parametrize("kind", DOWNLOADS)
def test_a_download_becomes_a_data_set(kind: str, tmp_path: Path) -> None:
    root, converted = made(kind, tmp_path)
    assert not converted.broken
    expected = SPLITS.get(kind, {"train": 1, "val": 1})
    assert {split: one.images for split, one in converted.splits.items()} == expected
    report = check_data(root, None, lambda *_: None)
    assert report.layout == "project"
    assert not report.problems
    for split in expected:
        truth = read_truth(labelled(root, split), (HEIGHT, WIDTH))
        known = {task for task in ("boxes", "drivable", "lane") if getattr(truth, task) is not None}
        assert known == TASKS[kind]
        if truth.drivable is not None:
            assert np.array_equal(truth.drivable, ROAD)
        if truth.lane is not None:
            assert np.array_equal(truth.lane, PAINT)
        if truth.boxes is not None:
            found = VEHICLE_CLASSES.objects(truth)
            assert found.boxes[~found.ignore] == pytest.approx(np.array([BOX]), abs=1e-3)


def test_names_of_the_source_stay_in_the_labels(tmp_path: Path) -> None:
    root, converted = made("coco", tmp_path)
    assert converted.splits["train2017"].boxes == Counter(car=1, person=1, bicycle=1)
    content = json.loads((root / "det" / "train2017.json").read_text())
    assert {one["name"] for one in content["categories"]} == {"person", "bicycle", "car"}
    first, second = read_split(root, "train2017")
    assert sorted((*first.categories, *second.categories)) == ["bicycle", "car", "person"]
    vehicles = [VEHICLE_CLASSES.objects(read_truth(one, (100, 100))) for one in (first, second)]
    assert [len(one.boxes) for one in vehicles] == [1, 0], "listed without a vehicle"


@pytest.mark.parametrize("kind", ["cityscapes", "kitti-object"])
def test_what_nobody_took_apart_is_ignored(kind: str, tmp_path: Path) -> None:
    root, converted = made(kind, tmp_path)
    assert converted.splits["train"].ignore_regions >= 1
    found = VEHICLE_CLASSES.objects(read_truth(labelled(root, "train"), (HEIGHT, WIDTH)))
    assert found.boxes[found.ignore].tolist() == [[70, 10, 90, 30]]


def test_polygons_of_idd_hide_each_other(tmp_path: Path) -> None:
    downloads.idd(tmp_path / "download")
    out = tmp_path / "idd"
    convert("idd", tmp_path / "download", out, None, lambda _done, _total: None)
    truth = read_truth(labelled(out, "val"), (HEIGHT, WIDTH))
    assert truth.boxes is not None
    assert truth.boxes.tolist() == [[*map(float, BOX)]]
    assert truth.drivable is not None
    assert truth.drivable[40].all()
    assert not truth.drivable[61].any()
    assert not truth.drivable[:31].any()


def test_images_are_scaled_with_their_labels(tmp_path: Path) -> None:
    root, _ = made("camvid", tmp_path, WIDTH // 2)
    sample = labelled(root, "train")
    assert downloads.size_of(sample.image_path) == (HEIGHT // 2, WIDTH // 2)
    truth = read_truth(sample, (HEIGHT // 2, WIDTH // 2))
    assert VEHICLE_CLASSES.objects(truth).boxes == pytest.approx(np.array([BOX]) / 2)
    assert truth.drivable is not None
    assert np.array_equal(truth.drivable, ROAD[::2, ::2])


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("camvid", "701_StillsRaw_full/0001TP_006690.png"),
        ("cityscapes", "gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds.png"),
        ("kitti-object", "training/label_2/000000.txt"),
        ("rtk", "label/000000000.png"),
    ],
)
def test_a_broken_file_is_named_and_its_image_left_out(
    kind: str, place: str, tmp_path: Path
) -> None:
    DOWNLOADS[kind](tmp_path / "download")
    downloads.spoil(tmp_path / "download" / place)
    out = tmp_path / "out"
    converted = convert(kind, tmp_path / "download", out, None, lambda _done, _total: None)
    assert [problem.path for problem in converted.broken] == [tmp_path / "download" / place]
    assert sum(one.images for one in converted.splits.values()) >= 1
    assert not check_data(out, None, lambda *_: None).broken


def test_colours_of_another_data_set_are_refused(tmp_path: Path) -> None:
    DOWNLOADS["comma10k"](tmp_path / "download")
    for mask in (tmp_path / "download" / "masks").iterdir():
        cv2.imwrite(str(mask), np.full((HEIGHT, WIDTH, 3), 77, np.uint8))
    with pytest.raises(LayoutError, match=r"nothing of .* can be used: .*colour #4d4d4d is of no"):
        convert("comma10k", tmp_path / "download", tmp_path / "out", None, lambda *_: None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", DOWNLOADS)
def test_another_folder_than_the_download_is_refused(kind: str, tmp_path: Path) -> None:
    write_text(tmp_path / "download" / "readme.txt", "nothing")
    with pytest.raises(LayoutError, match=str(tmp_path / "download")) as refused:
        convert(kind, tmp_path / "download", tmp_path / "out", None, lambda *_: None)
    assert "\n" not in str(refused.value)


def test_images_of_yolo_without_any_label_are_no_negatives(tmp_path: Path) -> None:
    DOWNLOADS["yolo"](tmp_path / "download")
    shutil.rmtree(tmp_path / "download" / "labels" / "val")
    with pytest.raises(LayoutError, match=r"no image of .*images/val has a label: .*val/a\.txt"):
        convert("yolo", tmp_path / "download", tmp_path / "out", None, lambda *_: None)


def test_mistakes_are_told(tmp_path: Path) -> None:
    root, _ = made("rtk", tmp_path)
    for kind, download, out, words in (
        ("rtk", tmp_path / "download", root, "exists: delete it"),
        ("rtk", tmp_path / "nowhere", tmp_path / "a", "nowhere is no folder"),
        ("kitti", tmp_path / "download", tmp_path / "a", "no data set kitti is known; bdd100k, "),
        ("bdd100k", tmp_path / "download", tmp_path / "a", "BDD100K needs no conversion"),
    ):
        with pytest.raises(UserError, match=words):
            convert(kind, download, out, None, lambda *_: None)


@pytest.mark.skipif(not CAMVID.is_dir(), reason="needs ../shared/data/camvid")
def test_camvid_comes_out_as_the_shipped_networks_learnt_it(tmp_path: Path) -> None:
    for label in sorted((CAMVID / "labels_color" / "val").glob("*_L.png"))[::30]:
        (tmp_path / "download").mkdir(exist_ok=True)
        (tmp_path / "download" / label.name).symlink_to(label)
        stem = label.stem.removesuffix("_L")
        image = cv2.imread(str(CAMVID / "images" / "val" / f"{stem}.jpg"))
        whole = cv2.resize(image, (960, 720))
        cv2.imwrite(str(tmp_path / "download" / f"{stem}.png"), whole)
    out = tmp_path / "out"
    convert("camvid", tmp_path / "download", out, 480, lambda *_: None)
    samples = read_split(out, "val")
    known = {sample.stem: sample for sample in read_split(CAMVID, "val")}
    assert len(samples) == 3
    for sample in samples:
        ours, theirs = (read_truth(one, (360, 480)) for one in (sample, known[sample.stem]))
        for task in ("drivable", "lane"):
            found, expected = getattr(ours, task), getattr(theirs, task)
            assert (found & expected).sum() > 0.99 * (found | expected).sum()
        boxes, expected = (VEHICLE_CLASSES.objects(one).boxes for one in (ours, theirs))
        assert sorted(boxes.tolist()) == sorted(expected.tolist())


@given(
    st.lists(
        st.tuples(st.integers(0, 11), st.integers(0, 7), st.integers(4, 7), st.integers(4, 7)),
        max_size=8,
        unique_by=lambda one: one[:2],
    )
)
def test_parts_of_a_mask_have_a_box_each(places: list[tuple[int, int, int, int]]) -> None:
    mask = np.zeros((80, 120), bool)
    expected = []
    for column, row, width, height in places:  # one in each cell of 10 x 10, none touches another
        x, y = 10 * column + 1, 10 * row + 1
        mask[y : y + height, x : x + width] = True
        expected.append((x, y, x + width, y + height))
    found = [box.corners for box in boxes_of_components(mask, "car")]
    assert sorted(found) == sorted(expected)


def coco_download(folder: Path, change: Callable[[dict], object] = lambda _content: None) -> Path:
    """The miniature of COCO, `train2017` of it changed."""
    DOWNLOADS["coco"](folder)
    path = folder / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    change(content)
    write_text(path, content)
    return folder


def converted(kind: str, download: Path, val_fraction: float | None = None) -> Converted:
    out = download.with_name("out")
    return convert(kind, download, out, None, lambda *_: None, val_fraction)


def annotation(**fields: object) -> Callable[[dict], object]:
    return lambda content: content["annotations"][0].update(fields)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content["images"].clear(), "image_id is 1, which no image has"),
        (lambda content: content.update(images=[], annotations=[]), "lists no image"),
        (lambda content: content.pop("categories"), "not a COCO file .it has no list categories"),
        (annotation(image_id=999), "image_id is 999, which no image has"),
        (lambda content: content["categories"][0].update(name=None), "category 1 has no name"),
        (lambda content: content["categories"][0].update(name=" "), "category 1 has no name"),
        (lambda content: content["categories"][0].update(id=2), "person and bicycle have one id"),
        (
            lambda content: [
                one.update(bbox=[0.1, 0.1, 0.2, 0.3]) for one in content["annotations"]
            ],
            "every bbox is within 0 and 1: write pixels",
        ),
    ],
)
def test_a_coco_file_that_nobody_can_use_is_refused(
    change: Callable[[dict], object], words: str, tmp_path: Path
) -> None:
    download = coco_download(tmp_path / "download", change)
    with pytest.raises(LayoutError, match=rf"instances_train2017\.json.*{words}"):
        converted("coco", download)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (annotation(category_id=9), "category_id is 9, which no category has"),
        (annotation(bbox=None), "it has neither a bbox nor polygons"),
        (
            lambda content: content["images"][0].update(width=48, height=32),
            "its labels are of 48x32, the image is 96x64",
        ),
    ],
)
def test_an_image_whose_labels_cannot_be_right_is_left_out(
    change: Callable[[dict], object], words: str, tmp_path: Path
) -> None:
    result = converted("coco", coco_download(tmp_path / "download", change))
    [problem] = result.broken
    assert words in str(problem)
    assert result.splits["train2017"].images == result.left_out == 1


def test_odd_boxes_are_told(tmp_path: Path) -> None:
    def change(content: dict) -> None:
        out, flat, _ = content["annotations"]
        out["bbox"], flat["bbox"] = [90, 10, 40, 20], [5, 5, 0, 9]

    download = coco_download(tmp_path / "download", change)
    result = converted("coco", download)
    assert Counter(one.kind for one in result.problems) == {
        "unusable box": 1,
        "label outside the image": 1,
    }
    assert "reaches out of its 96x64 image" in str(result.broken[0])
    assert result.splits["train2017"].images == 2
    done = CliRunner().invoke(
        app, ["convert", "coco", str(download), str(tmp_path / "again")], terminal_width=200
    )
    assert done.exit_code == 1
    assert "1 x label outside the image" in done.stdout


def test_polygons_alone_have_boxes(tmp_path: Path) -> None:
    def change(content: dict) -> None:
        for one in content["annotations"]:
            x, y, width, height = one.pop("bbox")
            one["segmentation"] = [[x, y, x + width, y], [x + width, y + height, x, y]]

    converted("coco", coco_download(tmp_path / "download", change))
    plain = coco_download(tmp_path / "plain" / "download")
    converted("coco", plain)
    first, second = (
        json.loads((folder / "out/det/train2017.json").read_text())
        for folder in (tmp_path, tmp_path / "plain")
    )
    assert first["annotations"] == second["annotations"]


def test_images_are_found_by_the_last_part_of_their_path_and_unlisted_ones_told(
    tmp_path: Path,
) -> None:
    def change(content: dict) -> None:
        first, second = content["images"]
        first["file_name"] = "C:\\data\\" + first["file_name"]
        content["images"].remove(second)

    result = converted("coco", coco_download(tmp_path / "download", change))
    assert not result.broken
    [problem] = result.problems
    assert problem.path == tmp_path / "download/train2017/000000000002.jpg"
    assert "instances_train2017.json does not list it" in problem.reason
    assert result.splits["train2017"].images == 1


@pytest.mark.parametrize(
    ("json_file", "folder", "split"),
    [
        ("labels.json", "images", "train"),
        ("annotations/instances_default.json", "images", "default"),
        ("train/_annotations.coco.json", "train", "train"),
    ],
)
def test_own_exports_are_read_and_divided(
    json_file: str, folder: str, split: str, tmp_path: Path
) -> None:
    source = coco_download(tmp_path / "source")
    own = tmp_path / "download"
    shutil.copytree(source / "train2017", own / folder)
    (own / json_file).parent.mkdir(exist_ok=True)
    shutil.copy(source / "annotations/instances_train2017.json", own / json_file)
    whole = converted("coco", own)
    assert {name: one.images for name, one in whole.splits.items()} == {split: 2}
    assert not whole.problems
    shutil.rmtree(tmp_path / "out")
    parts = converted("coco", own, 0.5)
    assert {name: one.images for name, one in parts.splits.items()} == {"train": 1, "val": 1}
    assert (tmp_path / "out/images/val/000000000002.jpg").exists(), "every second by name"
    with pytest.raises(UserError, match=r"of 2 images, --val-fraction 0\.2 leaves a split empty"):
        convert("coco", own, tmp_path / "b", None, lambda *_: None, 0.2)
    with pytest.raises(UserError, match="has splits train2017, val2017: leave out --val-fraction"):
        convert("coco", source, tmp_path / "b", None, lambda *_: None, 0.2)


def test_webp_comes_through(tmp_path: Path) -> None:
    download = coco_download(
        tmp_path / "download", lambda content: content["images"][0].update(file_name="w.webp")
    )
    cv2.imwrite(str(download / "train2017/w.webp"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    converted("coco", download)
    assert [one.stem for one in read_split(tmp_path / "out", "train2017")] == ["000000000002", "w"]


def test_yaml_of_yolo_is_not_guessed_at(tmp_path: Path) -> None:
    DOWNLOADS["yolo"](tmp_path / "download")
    config = tmp_path / "download" / "data.yaml"
    write_text(tmp_path / "download/images/train/._a.jpg", "what macOS puts there")
    write_text(config, config.read_text().replace("val:", "valid:"))
    result = converted("yolo", tmp_path / "download")
    assert not result.problems
    assert result.splits.keys() == {"train", "val"}
    for names, reason in (
        ("forklift", "names is 'forklift', neither a list nor numbers"),
        ("[no, car]", "the name of class 0 is False: put it in quotes"),
        ("[null, car]", "the name of class 0 is None"),
        ("{1: car, '1': bus}", "names has '1', where each class has a whole number once"),
        ("{0.5: car}", "names has 0.5, where"),
    ):
        write_text(config, f"train: images/train\nnames: {names}\n")
        with pytest.raises(LayoutError, match=reason):
            convert("yolo", tmp_path / "download", tmp_path / "b", None, lambda *_: None)


def test_key_points_of_yolo_are_no_polygons(tmp_path: Path) -> None:
    download = tmp_path / "download"
    DOWNLOADS["yolo"](download)
    config = download / "data.yaml"
    write_text(config, config.read_text() + "kpt_shape: [2, 3]\n")
    for split in ("train", "val"):
        write_text(download / f"labels/{split}/a.txt", "1 .5 .5 .25 .5 .1 .1 2 0 0 0\n")
    converted("yolo", download)
    sample = labelled(tmp_path / "out", "train")
    assert sample.boxes is not None
    assert sample.boxes.tolist() == [[WIDTH * 3 / 8, HEIGHT / 4, WIDTH * 5 / 8, HEIGHT * 3 / 4]]
    write_text(download / "labels/train/a.txt", "1 .5 .5 .25 .5\n")
    [problem] = convert("yolo", download, tmp_path / "b", None, lambda *_: None).broken
    assert problem.reason == "line 1 has 5 columns, kpt_shape 11"


@pytest.mark.parametrize("image", ["a.JPG", "Ü.jpg", "U\u0308.jpg"])
def test_labels_of_yolo_are_found_however_they_are_written(image: str, tmp_path: Path) -> None:
    download = tmp_path / "download"
    DOWNLOADS["yolo"](download)
    (download / "images/train/a.jpg").rename(download / "images/train" / image)
    label = "a.TXT" if image == "a.JPG" else "Ü.txt"
    (download / "labels/train/a.txt").rename(download / "labels/train" / label)
    assert not converted("yolo", download).problems
    assert sum(len(one.boxes) for one in read_split(tmp_path / "out", "train")) == 2


def test_labels_of_yolo_of_no_image_are_told_and_make_no_negatives(tmp_path: Path) -> None:
    download = tmp_path / "download"
    DOWNLOADS["yolo"](download)
    for label in ("B.txt", "x.txt"):
        shutil.copy(download / "labels/train/a.txt", download / "labels/train" / label)
    result = converted("yolo", download)
    assert [str(one).partition("train/")[2] for one in result.problems] == [
        "x.txt: no image x.*",
        "B.txt: a label of B, and there is an image b.jpg: give them one name",
    ]
    assert [one.stem for one in read_split(tmp_path / "out", "train")] == ["a"]
    (download / "labels/train/a.txt").rename(download / "labels/train/A.txt")
    with pytest.raises(LayoutError, match=r"A\.txt: a label of A, and there is an image a\.jpg"):
        convert("yolo", download, tmp_path / "b", None, lambda *_: None)


def test_a_box_of_kitti_that_is_no_number_is_broken(tmp_path: Path) -> None:
    DOWNLOADS["kitti-object"](tmp_path / "download")
    path = tmp_path / "download/training/label_2/000000.txt"
    write_text(path, path.read_text().replace("30.00 24.00", "nan inf", 1))
    [problem] = converted("kitti-object", tmp_path / "download").broken
    assert problem.path == path
    assert "line 1 has a box of 10.00 12.00 nan inf" in problem.reason
