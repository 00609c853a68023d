"""Whole bags: every storage, cameras, which topic is played."""

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from mtc_perception.replay.recordings.recording import (
    BrokenPixels,
    EncodedPixels,
    Notes,
    RawPixels,
    SourceError,
)
from mtc_perception.replay.recordings.sources import open_source
from mtc_perception.replay.recordings.storage import unpack_file
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
    packed,
    picture,
    raw,
    split_bag,
    stamp,
    storage_file,
    write_bag,
)
from support.replay_rig import read


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


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_topic_of_several_types_gives_its_images(
    tmp_path: Path, storage: StoragePlugin, order: tuple[int, ...]
) -> None:
    parts = (
        ("/cam", (IMAGE, [raw(0), raw(1)])),
        ("/cam", (COMPRESSED, [compressed(2), compressed(3)])),
        ("/cam", (DETECTIONS, [detections(0)])),
    )
    bag = write_bag(tmp_path / "bag", [parts[number] for number in order], storage)
    source = open_source(bag)
    assert source.info.frames == 4
    frames, notes = read(source)
    assert len(frames) == 4
    assert {note.kind for note in notes} <= {
        "topic of several types",
        "encoding changes",
        "equal stamps",
        "stamps go back",
    }
    assert (
        f"/cam is also {DETECTIONS}"
        in {note.kind: note.first for note in notes}["topic of several types"]
    )
    assert all(not isinstance(frame.pixels, BrokenPixels) for frame in source.frames())


PNG = cv2.imencode(".png", picture(1))[1].tobytes()
DEEP = cv2.imencode(".png", np.full((HEIGHT, WIDTH), 1000, np.uint16))[1].tobytes()


def deep(encoding: str, size: int) -> Any:
    message = raw(0)
    message.encoding, message.step = encoding, WIDTH * size
    message.data = np.zeros(HEIGHT * WIDTH * size, np.uint8)
    return message


@pytest.mark.parametrize(
    ("kind", "message", "what"),
    [
        (IMAGE, deep("16UC1", 2), "encoding '16UC1'"),
        (IMAGE, deep("32FC1", 4), "encoding '32FC1'"),
        (IMAGE, deep("mono16", 2), "encoding 'mono16'"),
        (COMPRESSED, packed(0, "16UC1; png compressed ", DEEP), "depth or heat"),
        (COMPRESSED, packed(0, "png", DEEP), "depth or heat"),
        (COMPRESSED, packed(0, "16UC1; compressedDepth png", bytes(12) + DEEP), "depth or heat"),
        (COMPRESSED, packed(0, "", bytes(12) + DEEP), "compressedDepth"),
        (COMPRESSED, packed(0, "h264", b"\0\0\0\1\x65" + bytes(90)), "H.264 .*format 'h264'"),
        (COMPRESSED, packed(0, "h265", b"\0\0\1\x26" + bytes(90)), "H.265 .*format 'h265'"),
        (COMPRESSED, packed(0, "vp9", b"\x82\x49\x83" + bytes(90)), "but 'vp9'"),
        (COMPRESSED, packed(0, "av1", b"\x12\0\x0a" + bytes(90)), "but 'av1'"),
        (COMPRESSED, packed(0, "ffv1", b"\1" + bytes(90)), "but 'ffv1'"),
        (COMPRESSED, packed(0, "bgr8; zstd", b"\x28\xb5\x2f\xfd" + bytes(90)), "packed by zstd"),
    ],
)
def test_images_of_no_camera_are_left_out_by_name(
    tmp_path: Path, kind: str, message: Any, what: str
) -> None:
    other = ("/other", (kind, [message] * 4))
    alone = write_bag(tmp_path / "alone", [other])
    with pytest.raises(SourceError, match=f"alone has no camera images; /other: .*{what}"):
        open_source(alone)
    source = open_source(write_bag(tmp_path / "both", [other, ("/cam", (IMAGE, images()))]))
    assert source.info.topic == "/cam"
    frames, [note] = read(source)
    assert len(frames) == COUNT
    assert note.kind == "images of no camera"
    assert re.search(f"/other: .*{what}", note.first)
    assert open_source(tmp_path / "both", topic="/other").info.frames == 4, "asked for by name"


def test_a_camera_that_begins_with_damaged_images_is_one(tmp_path: Path) -> None:
    for name, first in (
        ("garbage", [packed(i, "jpeg", b"\1\2\3" * 50) for i in range(4)]),
        ("video", [packed(0, "h264", b"\0\0\0\1\x65"), packed(1, "png", PNG)]),
        ("cut", [packed(i, "png", PNG[:20]) for i in range(4)]),
    ):
        bag = write_bag(tmp_path / name, {"/cam": (COMPRESSED, [*first, packed(5, "png", PNG)])})
        assert open_source(bag).info.topic == "/cam"


@pytest.mark.parametrize("metadata", [True, False])
def test_files_that_are_there_packed_and_unpacked_are_read_once(
    tmp_path: Path, metadata: bool
) -> None:
    parts = [
        write_bag(
            tmp_path / f"part{index}",
            {"/cam": (IMAGE, [raw(index)])},
            StoragePlugin.SQLITE3,
            CompressionMode.FILE,
        )
        for index in range(3)
    ]
    bag = tmp_path / "bag"
    bag.mkdir()
    for index, part in enumerate(parts):
        packed_file = storage_file(part).rename(bag / f"bag_{index}.db3.zstd")
        if index != 1:  # played, and the unpacked file was left
            unpack_file(packed_file, bag / f"bag_{index}.db3", Notes())
    if metadata:  # as `ros2 bag reindex` lists them
        names = sorted((file.name for file in bag.iterdir()), reverse=True)
        content = {"rosbag2_bagfile_information": {"relative_file_paths": sorted(names)}}
        (bag / "metadata.yaml").write_text(yaml.safe_dump(content))
    frames, notes = read(open_source(bag))
    assert len(frames) == 3
    assert [(note.kind, note.count) for note in notes if note.kind != "no metadata"] == [
        ("file twice", 2)
    ]
    assert [frame.stamp_ns for frame in open_source(bag).frames()] == [stamp(i) for i in range(3)]
