"""Image files and image messages: the same answers and the same counts, whoever reads them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from mtc_perception.core.bundle import read_bundle
from mtc_perception.core.input_size import InputSize
from mtc_perception.replay.recordings.recording import Notes
from mtc_perception.replay.recordings.sources import open_source
from mtc_perception.replay.records.record import FrameRecord
from mtc_perception.replay.stream.lockstep import replay_frames
from mtc_perception.runtime.perceiver import Selection, open_perceiver
from support.odd_images import (
    COUNT,
    HEIGHT,
    LOST_END,
    LOST_MIDDLE,
    WIDTH,
    damaged_data_set,
    data_set,
    drive,
)
from support.replay_rig import evaluate, records
from support.toy_bundle import write_toy_bundle


def check_counted(found: list[FrameRecord]) -> None:
    lost = [record for record in found if record.index in (LOST_MIDDLE, LOST_END)]
    assert [record.status for record in lost] == ["malformed"] * 2
    for record in lost:
        assert record.reason == "JPEG image cannot be decoded: premature end of data segment"
        assert record.evidence is not None
        assert record.evidence.drivable is not None
        assert record.evidence.drivable.true_positive == 0
        assert record.evidence.drivable.false_negative > 0


def test_files_are_turned_as_their_labels_are_and_webp_is_read(
    tmp_path: Path, toy_bundle: Path
) -> None:
    root = data_set(tmp_path / "data")
    result = evaluate(tmp_path / "run", toy_bundle, root / "images/val")
    assert (result["frames_processed"], result["frames_malformed"], result["notes"]) == (4, 0, [])
    assert result["drivable"]["images"] == 4
    assert result["drivable"]["miou"] > 0.9


def test_pictures_of_a_large_image_are_of_its_size(tmp_path: Path, toy_bundle: Path) -> None:
    evaluate(tmp_path / "run", toy_bundle, drive(tmp_path / "drive"))
    [folder] = (tmp_path / "run/streams").iterdir()
    pictures = [cv2.imread(str(path)) for path in (folder / "pictures").glob("*.jpg")]
    assert {picture.shape for picture in pictures if picture is not None} == {(HEIGHT, WIDTH, 3)}


def test_an_image_that_lost_data_is_a_miss(tmp_path: Path, toy_bundle: Path) -> None:
    result = evaluate(tmp_path / "run", toy_bundle, drive(tmp_path / "drive"))
    assert (result["frames_processed"], result["frames_malformed"]) == (COUNT - 2, 2)
    assert result["labelled_frames"] == COUNT
    found = records(tmp_path / "run")
    check_counted(found)
    assert [one.status for one in found].count("processed") == COUNT - 2
    [note] = result["notes"]
    assert (note["kind"], note["count"]) == ("malformed image", 2)


@pytest.mark.dds
def test_the_node_counts_and_answers_what_lock_step_does(tmp_path: Path, toy_bundle: Path) -> None:
    bag = drive(tmp_path / "drive")
    evaluate(tmp_path / "lockstep", toy_bundle, bag)
    expected = records(tmp_path / "lockstep")
    options = ("--bundle", toy_bundle, "--engine", "onnxruntime", "--threads", 1)
    out = tmp_path / "live"
    words = ["mtc_perception.replay.cli", "evaluate", bag, "--live", *options, "--out", out]
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)], capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr
    found = records(out)
    check_counted(found)
    answered = [record for record in found if record.status == "processed"]
    assert answered  # a busy machine may drop some
    for record in answered:
        assert record.digest == expected[record.index].digest


def test_two_networks_of_different_size_see_the_pixels_that_each_needs(
    tmp_path: Path, toy_bundle: Path
) -> None:
    large = write_toy_bundle(tmp_path / "large.mtc", height=HEIGHT, width=WIDTH)
    source = open_source(drive(tmp_path / "drive"))
    with (
        open_perceiver(Selection(toy_bundle, "onnxruntime", threads=1)) as perceiver,
        open_perceiver(Selection(large, "onnxruntime", threads=1)) as reference,
    ):
        limits = perceiver.bundle.manifest.limits
        frames = source.labelled_frames(Notes())
        seen = [
            one for one in replay_frames(frames, perceiver, limits, reference) if one.perception
        ]
        assert len(seen) == COUNT - 2
        for one in seen:
            assert one.image is not None
            assert one.image.pixels.shape == (96, 160, 3)
            assert one.rgb().shape == (HEIGHT, WIDTH, 3)
            assert one.perception is not None
            assert one.reference is not None
            assert one.perception.drivable.shape == (HEIGHT, WIDTH)
            alone = reference.perceive(one.labelled.frame.pixels.decode())
            np.testing.assert_array_equal(one.reference.drivable, alone.drivable)
            np.testing.assert_array_equal(one.reference.boxes, alone.boxes)


def test_damaged_files_are_counted_like_damaged_messages(tmp_path: Path, toy_bundle: Path) -> None:
    root = damaged_data_set(tmp_path / "data")
    result = evaluate(tmp_path / "run", toy_bundle, root / "images/val")
    assert (result["frames_processed"], result["frames_malformed"]) == (COUNT - 2, 2)
    check_counted(records(tmp_path / "run"))


def test_what_is_no_image_is_a_miss_of_what_its_folder_has_labels_of(
    tmp_path: Path, toy_bundle: Path
) -> None:
    root = damaged_data_set(tmp_path / "data")
    (root / "images/val/0.jpg").write_bytes(b"no image")
    drivable = cv2.imread(str(root / "drivable/val/0.png"), cv2.IMREAD_GRAYSCALE)
    result = evaluate(tmp_path / "run", toy_bundle, root / "images/val")
    assert (result["frames_processed"], result["frames_malformed"]) == (COUNT - 3, 3)
    assert result["labelled_frames"] == result["drivable"]["images"] == COUNT
    evidence = records(tmp_path / "run")[0].evidence
    assert evidence is not None
    assert evidence.drivable is not None
    assert evidence.drivable.false_negative == np.count_nonzero(drivable)


@pytest.mark.fault(
    area="replay",
    row="an image or a mask in a folder is a FIFO, a device or a link to nothing",
    answer="None of them is waited for: the image is a miss, the mask unlabelled.",
    diagnostics="A note that names the file.",
)
@pytest.mark.parametrize("spoil", [os.mkfifo, lambda path: path.symlink_to("/nowhere/z.jpg")])
def test_an_image_file_that_cannot_be_read_is_a_miss(
    tmp_path: Path, toy_bundle: Path, spoil: Callable[[Path], None]
) -> None:
    root = damaged_data_set(tmp_path / "data")
    for name in ("images/val/0.jpg", "drivable/val/1.png"):
        (root / name).unlink()
        spoil(root / name)
    result = evaluate(tmp_path / "run", toy_bundle, root / "images/val")
    assert (result["frames_processed"], result["frames_malformed"]) == (COUNT - 3, 3)
    assert result["labelled_frames"] == result["drivable"]["images"] == COUNT - 1
    notes = {note["kind"]: note["first"] for note in result["notes"]}
    assert notes.keys() == {"malformed image", "unreadable image", "unreadable label"}
    assert "images/val/0.jpg: " in notes["unreadable image"]
    assert "drivable/val/1.png: " in notes["unreadable label"]


def test_a_perceiver_knows_what_it_takes(toy_bundle: Path) -> None:
    with open_perceiver(Selection(toy_bundle, "onnxruntime", threads=1)) as perceiver:
        assert perceiver.input_size == read_bundle(toy_bundle).manifest.input.size
        assert perceiver.input_size == InputSize(96, 160)
