"""check-data: everything broken is counted under its name, and nothing else is."""

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from offline_compress.cli import app
from offline_compress.data.check import check_data
from offline_compress.roads.road_dataset import write_dataset
from support import mini_data as mini
from support.odd_images import with_orientation


def check(root: Path, split: str | None = None):
    return check_data(root, split, lambda *_: None)


def kinds(root: Path) -> dict[str, int]:
    return dict(Counter(problem.kind for problem in check(root).problems))


@pytest.mark.parametrize(
    "write",
    [mini.project, mini.bdd100k, mini.bdd100k_2018, mini.yolop, mini.a_yolom, mini.rmt_ppad],
)
def test_sound_data_sets_pass(write, tmp_path: Path) -> None:
    report = check(write(tmp_path))
    assert report.broken == []
    assert [str(p.path.name) for p in report.problems] == ["c.jpg"], "c has no label"
    found = report.splits["train"].to_json()
    assert found["images"] == 3
    assert found["labelled"] == {"detection": 2, "drivable": 2, "lane": 2}
    vehicles = {"car", "vehicle"} & found["categories"].keys()
    assert sum(found["categories"][name] for name in vehicles) == 1
    assert found["boxes"] == sum(found["categories"].values())
    assert found["mean_cover"]["drivable"] == pytest.approx(0.25)
    assert found["sizes"] == {"64x36": 3}


def test_attributes_and_ignore_regions_are_counted(tmp_path: Path) -> None:
    mini.bdd100k(tmp_path, "val")
    found = check(mini.bdd100k(tmp_path)).to_json()
    assert list(found["splits"]) == ["train", "val"]
    train = found["splits"]["train"]
    assert train["ignore_regions"] == 1
    assert train["categories"]["trailer"] == 1, "which classes ignore it is for a recipe to say"
    assert train["attributes"]["weather"] == {"clear": 1, "rainy": 1}
    assert train["attributes"]["timeofday"] == {"night": 2}
    assert train["mean_cover"]["lane"] == pytest.approx(mini.LANE.mean() / 2, abs=1e-4)


def break_image(root: Path) -> None:
    (root / "images/train/b.jpg").write_bytes(b"no image")


def cut_image_short(root: Path) -> None:
    path = root / "images/train/b.jpg"
    path.write_bytes(path.read_bytes()[:30])


def empty_image(root: Path) -> None:
    (root / "images/train/b.jpg").write_bytes(b"")


def double_image(root: Path) -> None:
    mini.write_png(root / "images/train/b.png", np.zeros((36, 64, 3), np.uint8))


def small_mask(root: Path) -> None:
    mini.write_png(root / "lane/train/b.png", np.zeros((18, 32), np.uint8))


def grey_mask(root: Path) -> None:
    mini.write_png(root / "lane/train/b.png", np.full((36, 64), 200, np.uint8))


def faint_mask(root: Path) -> None:
    mini.write_png(root / "lane/train/b.png", np.eye(36, 64, dtype=np.uint8))


def broken_mask(root: Path) -> None:
    (root / "drivable/train/b.png").write_bytes(b"no mask")


def box_outside(root: Path) -> None:
    content = json.loads((root / "det/train.json").read_text())
    content["annotations"][0]["bbox"] = [50, 10, 20, 10]
    mini.write_text(root / "det/train.json", content)


def flat_box(root: Path) -> None:
    content = json.loads((root / "det/train.json").read_text())
    content["annotations"][0]["bbox"] = [50, 10, 0, 10]
    mini.write_text(root / "det/train.json", content)


def broken_json(root: Path) -> None:
    mini.write_text(root / "det/train.json", "{")


def fifo(name: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        os.mkfifo(root / name)

    return damage


@pytest.mark.fault(
    area="offline",
    row="a FIFO or a device among the files of a data set",
    answer="It is not waited for: it is unreadable, as any other file that is damaged.",
    diagnostics="`check-data` and the commands that read it name the file: not a regular file.",
)
@pytest.mark.parametrize(
    ("damage", "kind", "file"),
    [
        (fifo("images/train/b.jpg"), "unreadable image", "images/train/b.jpg"),
        (fifo("lane/train/b.png"), "unreadable mask", "lane/train/b.png"),
        (fifo("det/train.json"), "unreadable labels", "det/train.json"),
        (break_image, "unreadable image", "images/train/b.jpg"),
        (cut_image_short, "unreadable image", "images/train/b.jpg"),
        (empty_image, "unreadable image", "images/train/b.jpg"),
        (double_image, "duplicate name", "images/train/b.png"),
        (small_mask, "mask of another size", "lane/train/b.png"),
        (grey_mask, "unexpected mask values", "lane/train/b.png"),
        (faint_mask, "unexpected mask values", "lane/train/b.png"),
        (broken_mask, "unreadable mask", "drivable/train/b.png"),
        (box_outside, "label outside the image", "images/train/a.jpg"),
        (broken_json, "unreadable labels", "det/train.json"),
    ],
)
def test_damage_is_named(damage, kind: str, file: str, tmp_path: Path) -> None:
    root = mini.project(tmp_path)
    damage(root)
    [problem] = check(root).broken
    assert problem.kind == kind
    assert problem.path == root / file


def sized(root: Path, width: object, height: object) -> None:
    """The detection file says of what size its images are."""
    content = json.loads((root / "det/train.json").read_text())
    for entry in content["images"]:
        entry |= {"width": width, "height": height}
    mini.write_text(root / "det/train.json", content)


def test_labels_of_another_size_are_named(tmp_path: Path) -> None:
    root = mini.project(tmp_path)
    sized(root, 64, 36)
    assert check(root).broken == []
    sized(root, 32, 18)
    problem, other = check(root).broken
    assert problem.kind == other.kind == "labels of another size"
    assert problem.path == root / "images/train/a.jpg"
    assert "its labels are of 32x18, the image is 64x36" in problem.reason
    sized(root, "32", "18")  # as some write them
    assert [one.kind for one in check(root).broken] == [problem.kind] * 2
    sized(root, "?", "18")
    assert check(root).broken == []


def test_labels_of_an_image_before_its_exif_turned_it_are_named(tmp_path: Path) -> None:
    root = mini.project(tmp_path)
    path = root / "images/train/a.jpg"
    path.write_bytes(with_orientation(path.read_bytes(), 6))
    for task in ("drivable", "lane"):
        (root / task / "train/a.png").unlink()
    sized(root, 64, 36)
    [problem] = check(root).broken
    assert problem.path == path
    assert "64x36, as its pixels are stored, and its EXIF turns it to 36x64" in problem.reason


def test_fractions_are_no_pixels(tmp_path: Path) -> None:
    root = mini.project(tmp_path)
    content = json.loads((root / "det/train.json").read_text())
    content["annotations"][0]["bbox"] = [0.2, 0.3, 0.5, 0.5]
    mini.write_text(root / "det/train.json", content)
    [problem] = check(root).broken
    assert problem.path == root / "det/train.json"
    assert "every bbox is within 0 and 1: write pixels" in problem.reason


def test_images_that_nothing_reads_are_broken(tmp_path: Path) -> None:
    root = mini.project(tmp_path)
    images = root / "images/train"
    (images / "part").mkdir()
    (images / "b.jpg").rename(images / "part/b.jpg")
    mini.write_png(images / "d.bmp", np.zeros((36, 64, 3), np.uint8))
    bmp, below = check(root).broken
    assert bmp.path == images / "d.bmp"
    assert "convert it to JPEG or PNG" in bmp.reason
    assert below.path == images / "part/b.jpg"
    assert "images in sub-folders are not read: move them to" in below.reason


def test_a_box_without_a_size_is_counted_but_breaks_nothing(tmp_path: Path) -> None:
    root = mini.project(tmp_path)
    flat_box(root)
    report = check(root)
    assert report.broken == []
    assert kinds(root) == {"unusable box": 1, "image without label": 1}
    assert report.splits["train"].boxes == 0


def test_a_split_without_any_label_is_broken_but_for_test_splits(tmp_path: Path) -> None:
    for split in ("train", "test2017"):
        mini.write_images(tmp_path / "images" / split)
    [problem] = check(tmp_path).broken
    assert problem.kind == "split without labels"
    assert problem.path == tmp_path / "images/train"
    assert "det/train.json, drivable/train/, lane/train/" in problem.reason
    assert check(tmp_path, "test2017").broken == []


def test_lines_outside_the_image_are_named(tmp_path: Path) -> None:
    root = mini.bdd100k(tmp_path, masks=False)
    line = {"vertices": [[32, 20], [32, 80]], "types": "LL", "closed": False}
    frame = {"name": "a.jpg", "labels": [{"category": "single white", "poly2d": [line]}]}
    mini.write_text(root / "labels/lane/polygons/lane_train.json", [frame])
    [problem] = check(root).broken
    assert problem.kind == "label outside the image"
    assert "(32, 80) reaches out of its 64x36 image" in problem.reason


def test_the_first_is_named_and_all_are_counted(tmp_path: Path) -> None:
    root = mini.project(tmp_path / "roads")
    for damage in (small_mask, broken_mask, box_outside):
        damage(root)
    result = CliRunner().invoke(
        app, ["check-data", str(root), "--json", str(tmp_path / "new/report.json")]
    )
    assert result.exit_code == 1
    assert "1 x mask of another size" in result.stdout
    assert "first of 3 broken" in result.stdout
    assert "images/train/a.jpg: a box" in result.stdout.replace("\n", "")
    report = json.loads((tmp_path / "new/report.json").read_text())
    assert report["ok"] is False
    assert sum(report["problems"].values()) == 4
    assert report["first_broken"].startswith(str(root / "images/train/a.jpg"))


def test_the_command_passes_sound_data_and_names_user_errors(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "synth", 3, 96, 64, seed=1, workers=1, val_fraction=0.4)
    done = CliRunner().invoke(app, ["check-data", str(root)])
    assert done.exit_code == 0
    assert "nothing is broken" in done.stdout
    for arguments, reason in (
        ([str(tmp_path / "nowhere")], "does not exist"),
        ([str(root), "--split", "test"], "no split 'test'; it has: train, val"),
    ):
        failed = CliRunner().invoke(app, ["check-data", *arguments])
        assert reason in str(failed.exception)
