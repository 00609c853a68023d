"""Whole bags: every storage, cameras, which topic is played."""

from pathlib import Path

import pytest
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from mtc_perception.replay.recordings.recording import (
    EncodedPixels,
    Notes,
    RawPixels,
    SourceError,
)
from mtc_perception.replay.recordings.sources import open_source
from support.bag_messages import (
    COMPRESSED,
    COUNT,
    DETECTIONS,
    HEIGHT,
    IMAGE,
    WIDTH,
    compressed,
    detections,
    images,
    mask,
    raw,
    split_bag,
    stamp,
    write_bag,
)


@pytest.mark.parametrize(
    ("storage", "compression"),
    [
        (StoragePlugin.MCAP, None),
        (StoragePlugin.MCAP, CompressionMode.STORAGE),
        (StoragePlugin.SQLITE3, None),
        (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
        (StoragePlugin.SQLITE3, CompressionMode.FILE),
    ],
)
def test_bags_of_every_storage(
    tmp_path: Path, storage: StoragePlugin, compression: CompressionMode | None
) -> None:
    topics = {"/front/image_raw": (IMAGE, images())}
    source = open_source(write_bag(tmp_path / "bag", topics, storage, compression))
    assert (source.info.kind, source.info.topic) == ("bag", "/front/image_raw")
    assert source.info.frames == COUNT
    assert source.info.rate_hz == pytest.approx(10.0)
    for _ in range(2):  # a source can be read again
        frames = list(source.frames())
        assert [frame.stamp_ns for frame in frames] == [stamp(i) for i in range(COUNT)]
        assert [int(f.pixels.decode().pixels[0, 0, 0]) for f in frames] == [10, 50, 90, 130, 170]


def test_compressed_images_stay_compressed(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam/compressed": (COMPRESSED, images(compressed))})
    frames = list(open_source(bag).frames())
    assert all(isinstance(frame.pixels, EncodedPixels) for frame in frames)
    assert frames[3].pixels.decode().pixels.shape == (HEIGHT, WIDTH, 3)
    assert abs(int(frames[3].pixels.decode().pixels[0, 0, 0]) - 130) <= 2


def test_padded_rows_are_kept_as_recorded(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam": (IMAGE, [raw(1, pad=13)])})
    pixels = next(iter(open_source(bag).frames())).pixels
    assert isinstance(pixels, RawPixels)
    assert pixels.step == WIDTH * 3 + 13
    assert (pixels.decode().pixels == 50).all()


def test_a_single_mcap_file_without_metadata_is_a_bag(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam": (IMAGE, images())})
    moved = (bag / "bag.mcap").rename(tmp_path / "alone.mcap")
    assert len(list(open_source(moved).frames())) == COUNT


def test_the_one_camera_is_found_among_masks_and_its_own_compressed_form(tmp_path: Path) -> None:
    topics = {
        "/cam/image_raw/compressed": (COMPRESSED, images(compressed)),
        "/cam/image_raw": (IMAGE, images()),
        "/drivable_mask": (IMAGE, [mask(0, 3)]),
        "/ground_truth/lane_mask": (IMAGE, [mask(0, 3)]),
    }
    assert open_source(write_bag(tmp_path / "bag", topics)).info.topic == "/cam/image_raw"


def test_several_cameras_must_be_chosen_from(tmp_path: Path) -> None:
    topics = {"/left": (IMAGE, images()), "/right/compressed": (COMPRESSED, images(compressed))}
    bag = write_bag(tmp_path / "bag", topics)
    with pytest.raises(SourceError, match=r"/left, /right/compressed; choose one with --topic"):
        open_source(bag)
    assert open_source(bag, topic="/left").info.topic == "/left"


def test_a_missing_topic_is_answered_with_what_is_there(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", {"/ground_truth/detections": (DETECTIONS, [detections(0)])})
    with pytest.raises(SourceError, match=r"no camera images; it has /ground_truth/detections"):
        open_source(bag)
    with pytest.raises(SourceError, match=r"no images on /cam; it has /ground_truth/detections"):
        open_source(bag, topic="/cam")


def test_the_files_of_a_split_bag_are_read_in_order(tmp_path: Path) -> None:
    bag = split_bag(tmp_path)
    expected = [stamp(index) for index in range(12)]
    assert [frame.stamp_ns for frame in open_source(bag).frames()] == expected
    (bag / "metadata.yaml").unlink()  # by name, split_10 would come before split_2
    assert [frame.stamp_ns for frame in open_source(bag).frames()] == expected
    assert open_source(bag).info.frames == 12


def test_images_without_stamps_have_their_time_of_recording(tmp_path: Path) -> None:
    unstamped = [raw(index) for index in range(3)]
    for message in unstamped:
        message.header.stamp.sec = message.header.stamp.nanosec = 0
    source = open_source(write_bag(tmp_path / "bag", {"/cam": (IMAGE, unstamped)}))
    notes = Notes()
    stamps = [frame.stamp_ns for frame, _ in source.labelled_frames(notes)]
    assert stamps == [stamp(index) + 7 for index in range(3)]
    [note] = notes.all()
    assert (note.kind, note.count) == ("image without stamp", 3)
