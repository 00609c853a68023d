"""Labels of recordings: from topics joined by stamp, from folders by stamp or name."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from mtc_perception.replay.options import Recording, ReplayOptions
from mtc_perception.replay.recordings.bag_labels import TruthTopics
from mtc_perception.replay.recordings.labels import stamp_of
from mtc_perception.replay.recordings.recording import (
    Notes,
    SourceError,
)
from mtc_perception.replay.recordings.sources import open_source
from mtc_perception.replay.run.evaluation import plan_run
from mtc_perception.util.errors import UserError
from support.bag_messages import (
    COMPRESSED,
    COUNT,
    DETECTIONS,
    HEIGHT,
    IMAGE,
    STORE,
    WIDTH,
    compressed,
    detections,
    header,
    images,
    mask,
    picture,
    raw,
    stamp,
    write_bag,
)
from support.replay_rig import evaluate, records, truths


def test_ground_truth_is_joined_by_stamp(tmp_path: Path) -> None:
    boxes = ((1.0, 2.0, 11.0, 22.0, ""), (30.0, 30.0, 40.0, 35.0, "ignore"))
    topics = {
        "/cam": (IMAGE, images()),
        "/ground_truth/drivable_mask": (IMAGE, [mask(i, 10) for i in range(3)]),
        "/ground_truth/lane_mask": (IMAGE, [mask(i, 4) for i in range(2)]),
        "/ground_truth/detections": (DETECTIONS, [detections(0, *boxes), detections(1)]),
    }
    found = truths(open_source(write_bag(tmp_path / "bag", topics)))
    assert list(found) == [stamp(0), stamp(1), stamp(2)]
    first, second, third = found.values()
    assert first.boxes is not None
    np.testing.assert_allclose(first.boxes, [box[:4] for box in boxes])
    assert first.ignore is not None
    assert first.ignore.tolist() == [False, True]
    assert first.drivable is not None
    assert first.drivable.sum() == HEIGHT * 10
    assert second.boxes is not None
    assert second.boxes.shape == (0, 4)  # labelled: there is none
    assert third.boxes is None  # not labelled
    assert third.lane is None


def test_a_bag_without_labels_has_none(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam": (IMAGE, images())})
    assert truths(open_source(bag)) == {}


def test_labels_wait_for_their_images_and_images_for_their_labels(tmp_path: Path) -> None:
    """Labels recorded 20 images behind, and drivable masks 20 images ahead of, their images."""
    bag, count = tmp_path / "bag", 60
    with Writer(bag, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic, kind, message, shift in (
            ("/cam", IMAGE, raw, 0),
            ("/ground_truth/lane_mask", IMAGE, lambda i: mask(i, i + 1), 20),
            ("/ground_truth/drivable_mask", IMAGE, lambda i: mask(i, 60 - i), -20),
        ):
            connection = writer.add_connection(topic, kind, typestore=STORE)
            for index in range(count):
                one = message(0) if topic == "/cam" else message(index)
                one.header.stamp = header(stamp(index)).stamp
                data = STORE.serialize_cdr(one, kind)
                writer.write(connection, stamp(index + shift) + 7, data)
    notes = Notes()
    joined = list(open_source(bag).labelled_frames(notes))
    assert [frame.index for frame, _ in joined] == list(range(count))
    for frame, truth in joined:
        assert truth is not None
        assert truth.lane is not None
        assert truth.lane[0].sum() == frame.index + 1
        assert truth.drivable is not None
        assert truth.drivable[0].sum() == 60 - frame.index
    assert notes.all() == []


def test_labels_of_other_times_are_counted(tmp_path: Path) -> None:
    late = [mask(index + 1000, 3) for index in range(4)]
    topics = {"/cam": (IMAGE, images()), "/ground_truth/lane_mask": (IMAGE, late)}
    notes = Notes()
    frames = list(open_source(write_bag(tmp_path / "bag", topics)).labelled_frames(notes))
    assert len(frames) == COUNT
    assert not any(truth for _, truth in frames)
    assert [(note.kind, note.count) for note in notes.all()] == [
        ("label without image", 4),
        ("labels fit no image", 1),
    ]


def test_labels_that_are_no_masks_are_counted(tmp_path: Path) -> None:
    topics = {"/cam": (IMAGE, images()), "/ground_truth/lane_mask": (IMAGE, images())}
    notes = Notes()
    frames = list(open_source(write_bag(tmp_path / "bag", topics)).labelled_frames(notes))
    assert not any(truth for _, truth in frames)
    [note] = notes.all()
    assert (note.kind, note.count) == ("unreadable label", COUNT)
    assert "masks must be mono8" in note.first


def test_masks_of_zeros_and_ones_are_not_taken_for_empty_ones(tmp_path: Path) -> None:
    ones = [mask(0, 3), mask(1, 0), mask(2, 3)]
    ones[2].data = ones[2].data // 255
    topics = {"/cam": (IMAGE, images()), "/ground_truth/lane_mask": (IMAGE, ones)}
    notes = Notes()
    frames = open_source(write_bag(tmp_path / "bag", topics)).labelled_frames(notes)
    assert [truth is not None for _, truth in frames][:3] == [True, True, False]
    [note] = notes.all()
    assert (note.kind, note.count) == ("unreadable label", 1)
    assert "values up to 1, foreground must be above 127" in note.first


def test_every_camera_has_its_own_labels(tmp_path: Path) -> None:
    topics = {
        "/front/image_raw": (IMAGE, images()),
        "/rear/image_raw/compressed": (COMPRESSED, images(compressed)),
        "/front/ground_truth/lane_mask": (IMAGE, [mask(0, 3)]),
        "/ground_truth/drivable_mask": (IMAGE, [mask(0, 5)]),
        "/labels/detections": (DETECTIONS, [detections(0)]),
    }
    bag = write_bag(tmp_path / "bag", topics)
    with pytest.raises(SourceError, match="/front/image_raw, /rear/image_raw/compressed; choose"):
        open_source(bag)
    [front] = truths(open_source(bag, topic="/front/image_raw")).values()
    assert front.lane is not None
    assert front.drivable is None
    # Asked for by name, the rear camera has the labels at the root to itself.
    [rear] = truths(open_source(bag, topic="/rear/image_raw/compressed")).values()
    assert rear.drivable is not None
    named = TruthTopics(detections="/labels/detections")
    [boxes] = truths(open_source(bag, topic="/front/image_raw", truth=named)).values()
    assert boxes.boxes is not None
    assert boxes.lane is None
    with pytest.raises(SourceError, match=r"no labels on /nothing; it has /front/"):
        open_source(bag, topic="/front/image_raw", truth=TruthTopics(lane="/nothing"))


def test_labels_of_no_camera_in_particular_are_not_guessed(
    tmp_path: Path, toy_bundle: Path
) -> None:
    topics = {
        "/front": (IMAGE, images()),
        "/rear": (IMAGE, images()),
        "/ground_truth/lane_mask": (IMAGE, [mask(i, 9) for i in range(COUNT)]),
    }
    bag = write_bag(tmp_path / "both", topics)
    result = evaluate(tmp_path / "run", toy_bundle, bag)
    assert result["labelled_frames"] == 0
    [note] = result["notes"]
    assert (note["kind"], note["count"]) == ("labels of no camera", 2)
    assert "/ground_truth/lane_mask" in note["first"]
    chosen = evaluate(tmp_path / "rear", toy_bundle, bag, "--topic", "/rear")
    assert chosen["labelled_frames"] == COUNT


def test_labels_of_another_size_are_left_out_and_noted(tmp_path: Path, toy_bundle: Path) -> None:
    small, large = mask(1, 5), mask(2, WIDTH)
    small.height, small.data = HEIGHT // 2, small.data[: HEIGHT // 2 * WIDTH]
    large.height, large.data = HEIGHT * 2, np.tile(large.data, 2)
    topics = {
        "/cam": (IMAGE, images()),
        "/ground_truth/detections": (DETECTIONS, [detections(0), detections(1)]),
        "/ground_truth/lane_mask": (IMAGE, [mask(0, 5), small, large]),
    }
    result = evaluate(tmp_path / "run", toy_bundle, write_bag(tmp_path / "bag", topics))
    assert (result["labelled_frames"], result["detection"]["images"]) == (2, 2)
    assert result["lane"]["images"] == 1
    [note] = result["notes"]
    assert (note["kind"], note["count"]) == ("label of another size", 2)
    assert f"image 1 is {WIDTH}x{HEIGHT}, its lane label {WIDTH}x{HEIGHT // 2}" in note["first"]


def write_labels(root: Path, stems: list[str]) -> Path:
    (root / "lane" / "val").mkdir(parents=True)
    for index, stem in enumerate(stems):
        label = np.zeros((HEIGHT, WIDTH), np.uint8)
        label[:, : 3 * index] = 255
        cv2.imwrite(str(root / "lane" / "val" / f"{stem}.png"), label)
    return root


@pytest.mark.parametrize(
    "stems",
    [
        [f"{stamp(i)}" for i in range(COUNT)],
        [f"{stamp(i) // 10**9}.{stamp(i) // 10**6 % 1000:03d}" for i in range(COUNT)],
        [f"{stamp(i) // 10**9}_{stamp(i) % 10**9}" for i in range(COUNT)],
        [f"seq_{i}" for i in range(COUNT)],
    ],
)
def test_labels_come_from_a_folder(tmp_path: Path, toy_bundle: Path, stems: list[str]) -> None:
    frames = images()
    for index, message in enumerate(frames):
        message.header.frame_id = f"seq_{index}"
        message.header.stamp = header(stamp(index) + 300_000).stamp  # masks' names are rounded
    topics = {
        "/cam": (IMAGE, frames),
        # The folder counts, not these.
        "/ground_truth/drivable_mask": (IMAGE, [mask(0, 9)]),
    }
    bag = write_bag(tmp_path / "drive", topics)
    labels = write_labels(tmp_path / "labels", stems)
    result = evaluate(tmp_path / "run", toy_bundle, bag, "--labels", labels)
    assert result["labelled_frames"] == COUNT
    assert "drivable" not in result
    found = [record.evidence for record in records(tmp_path / "run")]
    lanes = [one.lane for one in found if one is not None and one.lane is not None]
    positives = [lane.true_positive + lane.false_negative for lane in lanes]
    assert positives == [HEIGHT * 3 * index for index in range(COUNT)]


def test_labels_of_image_files_go_by_name_even_where_names_are_stamps(
    tmp_path: Path, toy_bundle: Path
) -> None:
    stems = [f"{stamp(index)}" for index in range(COUNT)]
    (tmp_path / "drive").mkdir()
    for index, stem in enumerate(stems):
        cv2.imwrite(str(tmp_path / "drive" / f"{stem}.png"), picture(index))
    labels = write_labels(tmp_path / "labels", stems)
    result = evaluate(tmp_path / "run", toy_bundle, tmp_path / "drive", "--labels", labels)
    assert result["labelled_frames"] == COUNT
    assert result["notes"] == []


def test_labels_that_changed_are_another_task(tmp_path: Path, toy_bundle: Path) -> None:
    bag = write_bag(tmp_path / "drive", {"/cam": (IMAGE, images())})
    labels = write_labels(tmp_path / "labels", [f"{stamp(index)}" for index in range(COUNT)])
    words = (bag, "--labels", labels)
    first = evaluate(tmp_path / "run", toy_bundle, *words)
    assert first["resumed"] == []
    again = evaluate(tmp_path / "run", toy_bundle, *words)
    assert again["resumed"] == ["drive:/cam"]
    file = labels / "lane" / "val" / f"{stamp(1)}.png"
    cv2.imwrite(str(file), np.full((HEIGHT, WIDTH), 255, np.uint8))
    other = evaluate(tmp_path / "run", toy_bundle, *words)
    assert other["resumed"] == []
    assert other["lane"] != first["lane"] == again["lane"]


def test_labels_of_a_data_set_that_changed_are_another_task(
    tmp_path: Path, toy_bundle: Path
) -> None:
    folder = write_labels(tmp_path, ["a", "b"]) / "images" / "val"
    folder.mkdir(parents=True)
    for index, stem in enumerate("ab"):
        cv2.imwrite(str(folder / f"{stem}.png"), picture(index))
    options = ReplayOptions(bundle=toy_bundle)

    def key() -> str:
        [task], _ = plan_run([Recording(path=folder)], options, tmp_path / "run")
        return task.key

    before = key()
    assert key() == before
    file = tmp_path / "lane" / "val" / "b.png"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert key() != before


def test_labels_of_one_camera_are_not_those_of_all(tmp_path: Path, toy_bundle: Path) -> None:
    topics = {
        "/front": (IMAGE, images()),
        "/rear": (IMAGE, images()),
        "/labels": (IMAGE, [mask(0, 9)]),
    }
    bag = write_bag(tmp_path / "both", topics)
    labels = write_labels(tmp_path / "labels", [f"{stamp(0)}"])
    options = ReplayOptions(bundle=toy_bundle)
    for given, cameras in (
        (Recording(path=bag, labels=labels), "/front, /labels, /rear"),
        (Recording(path=bag, truth=TruthTopics(lane="/labels")), "/front, /rear"),
    ):
        with pytest.raises(UserError, match=f"several cameras, {cameras}: say with --topic"):
            plan_run([given], options, tmp_path / "run")
        rear = given.model_copy(update={"topics": ("/rear",)})
        [task], _ = plan_run([rear], options, tmp_path / "run")
        assert task.recording.topics == ("/rear",)


def test_labels_that_fit_no_image_are_noted(tmp_path: Path, toy_bundle: Path) -> None:
    bag = write_bag(tmp_path / "drive", {"/cam": (IMAGE, images())})
    labels = write_labels(tmp_path / "labels", ["a", "b"])
    result = evaluate(tmp_path / "run", toy_bundle, bag, "--labels", labels)
    assert result["labelled_frames"] == 0
    [note] = result["notes"]
    assert note["kind"] == "labels fit no image"
    assert result["frames_processed"] == COUNT


def test_two_labels_of_one_stamp_are_refused(tmp_path: Path, toy_bundle: Path) -> None:
    ns = stamp(1)
    stems = [f"{stamp(0)}", f"{ns // 10**9}.{ns % 10**9:09d}", f"{ns // 10**9}_{ns % 10**9}"]
    labels = write_labels(tmp_path / "labels", stems)
    bag = write_bag(tmp_path / "drive", {"/cam": (IMAGE, images())})
    options = ReplayOptions(bundle=toy_bundle)
    with pytest.raises(UserError, match="are labels of one stamp: keep one"):
        plan_run([Recording(path=bag, labels=labels)], options, tmp_path / "run")


@pytest.mark.parametrize("ahead_ns", [0, -20_000_000, 250_000_000])
def test_two_messages_of_one_stamp_that_differ_make_no_label(tmp_path: Path, ahead_ns: int) -> None:
    """Whether they come before or behind their images; what is merely recorded twice is used."""
    box = (1.0, 2.0, 11.0, 22.0, "")
    labels = [
        *(detections(index, box) for index in range(COUNT)),
        detections(1, box),
        detections(2),
        detections(3, (5.0, 2.0, 11.0, 22.0, "")),
        detections(3, box),
    ]
    lanes = [*(mask(index, 4) for index in range(COUNT)), mask(0, 4), mask(4, 5)]
    bag = tmp_path / "bag"
    with Writer(bag, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic, kind, messages, late_ns in (
            ("/cam", IMAGE, images(), 0),
            ("/ground_truth/detections", DETECTIONS, labels, ahead_ns),
            ("/ground_truth/lane_mask", IMAGE, lanes, ahead_ns),
        ):
            connection = writer.add_connection(topic, kind, typestore=STORE)
            for message in messages:
                at = message.header.stamp
                recorded_ns = at.sec * 10**9 + at.nanosec + late_ns
                writer.write(connection, recorded_ns, STORE.serialize_cdr(message, kind))
    notes = Notes()
    found = [truth for _, truth in open_source(bag).labelled_frames(notes)]
    assert [one is not None and one.boxes is not None for one in found] == [1, 1, 0, 0, 1]
    assert [one is not None and one.lane is not None for one in found] == [1, 1, 1, 1, 0]
    [note] = notes.all()
    assert note.kind == "labels contradict"
    assert "several messages of /ground_truth/" in note.first


def test_stamps_in_file_names() -> None:
    ns = 1_700_000_000_250_000_000
    for name in ("1700000000250000000", "1700000000.25", "1700000000_250000000", "1700000000250"):
        assert stamp_of(name) == ns
    assert [stamp_of(name) for name in ("0001TP_008550", "12", "a.25")] == [None, None, None]
