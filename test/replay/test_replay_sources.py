"""Recordings that are no bags, and what is none at all."""

import json
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin

from mtc_perception.replay.recordings.recording import (
    Notes,
    SourceError,
    first_seconds,
)
from mtc_perception.replay.recordings.sources import find_streams, open_source
from mtc_perception.util.errors import UserError
from support.bag_messages import (
    COUNT,
    HEIGHT,
    IMAGE,
    WIDTH,
    images,
    picture,
    storage_file,
    write_bag,
)
from support.replay_rig import truths


def write_video(path: Path, rate_hz: float = 20.0, codec: str = "mp4v") -> Path:
    code = cv2.VideoWriter.fourcc(*codec)
    writer = cv2.VideoWriter(str(path), code, rate_hz, (WIDTH, HEIGHT))
    for index in range(COUNT):
        writer.write(picture(index))
    writer.release()
    return path


def test_a_video_has_the_rate_of_its_file_or_the_one_asked_for(tmp_path: Path) -> None:
    video = write_video(tmp_path / "drive.mp4")
    source = open_source(video)
    assert (source.info.kind, source.info.frames) == ("video", COUNT)
    frames = list(source.frames())
    assert [frame.stamp_ns for frame in frames] == [i * 50_000_000 for i in range(COUNT)]
    assert abs(int(frames[2].pixels.decode().pixels[5, 5, 0]) - 90) <= 6
    faster = list(open_source(video, fps=40).frames())
    assert faster[-1].stamp_ns == 100_000_000
    assert len(list(first_seconds(source.frames(), 0.1))) == 2
    assert len(list(first_seconds(source.frames(), None))) == COUNT


def test_a_video_that_breaks_off_is_noted(tmp_path: Path) -> None:
    video = write_video(tmp_path / "drive.avi", codec="MJPG")
    notes = Notes()
    assert len(list(open_source(video).labelled_frames(notes))) == COUNT
    assert notes.all() == []
    content = video.read_bytes()
    last = content.rindex(b"00dc", 0, content.rindex(b"idx1"))
    video.write_bytes(content[:last])
    assert len(list(open_source(video).labelled_frames(notes))) == COUNT - 1
    [note] = notes.all()
    assert note.kind == "truncated file"
    assert f"claims {COUNT} images, {COUNT - 1} can be decoded" in note.first


def write_dataset(root: Path) -> Path:
    for task in ("images", "drivable", "lane"):
        (root / task / "val").mkdir(parents=True)
    (root / "det").mkdir()
    for index, stem in enumerate("abc"):
        cv2.imwrite(str(root / f"images/val/{stem}.jpg"), picture(index))
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[40:] = 255
    cv2.imwrite(str(root / "drivable/val/a.png"), label)
    cv2.imwrite(str(root / "drivable/val/b.png"), label)
    cv2.imwrite(str(root / "lane/val/a.png"), label)
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 1, "bbox": [1, 2, 10, 20], "iscrowd": 1}],
        "categories": [{"id": 1, "name": "vehicle"}],
    }
    (root / "det/val.json").write_text(json.dumps(content))
    return root / "images/val"


def test_a_data_set_folder_brings_its_labels(tmp_path: Path) -> None:
    source = open_source(write_dataset(tmp_path), fps=5)
    assert [frame.stamp_ns for frame in source.frames()] == [0, 200_000_000, 400_000_000]
    found = truths(source)
    assert list(found) == [0, 200_000_000]  # image c has no label at all
    first, second = found.values()
    assert first.boxes is not None
    assert first.boxes.tolist() == [[1, 2, 11, 22]]
    assert first.ignore is not None
    assert first.ignore.tolist() == [True]
    assert first.lane is not None
    assert first.lane.sum() == 8 * WIDTH
    assert second.lane is None
    assert second.boxes is None


def test_a_plain_image_folder_has_no_labels(tmp_path: Path) -> None:
    for index, name in enumerate(("2.png", "10.png", ".hidden.png", "notes.txt")):
        if name.endswith("png"):
            cv2.imwrite(str(tmp_path / name), picture(index))
    source = open_source(tmp_path)
    assert (source.info.frames, source.info.rate_hz) == (2, 30.0)
    assert truths(source) == {}


def test_the_root_of_a_data_set_names_its_splits(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    with pytest.raises(SourceError, match=r"give .*images/val"):
        open_source(tmp_path)


def test_broken_labels_are_named(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path)
    (tmp_path / "det/val.json").write_text("{}")
    with pytest.raises(UserError, match=r"val\.json: not a COCO file"):
        truths(open_source(folder))
    (tmp_path / "det/val.json").unlink()
    (tmp_path / "lane/val/a.png").write_bytes(b"no png")
    notes = Notes()
    first = next(iter(open_source(folder).labelled_frames(notes)))
    assert first.truth is not None
    assert first.truth.lane is None
    assert first.truth.drivable is not None
    [note] = notes.all()
    assert note.kind == "unreadable label"
    assert re.search(r"a\.png: not a readable image", note.first)


def test_what_cannot_be_a_recording_says_so(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(SourceError, match="neither a bag nor a video"):
        open_source(tmp_path / "text.mp4")
    with pytest.raises(SourceError, match="does not exist"):
        open_source(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds neither images"):
        open_source(tmp_path / "empty")


def test_images_that_are_not_read_say_what_to_do(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.bmp"), picture(0))
    mend = r"a\.bmp: no \.bmp is read: convert it to JPEG or PNG"
    for path in (tmp_path / "a.bmp", tmp_path):
        with pytest.raises(SourceError, match=mend):
            open_source(path)
    cv2.imwrite(str(tmp_path / "b.webp"), picture(1))
    notes = Notes()
    [frame] = open_source(tmp_path).labelled_frames(notes)
    assert frame.frame.pixels.decode().pixels.shape == (HEIGHT, WIDTH, 3)
    [note] = notes.all()
    assert re.search(mend, note.first)


@pytest.mark.fault(
    area="replay",
    row="a FIFO or a device in the place of a recording",
    answer="Refused without opening it, at once.",
    diagnostics="One line: not a regular file.",
)
@pytest.mark.parametrize("name", ["a.mcap", "a.db3", "a.mcap.zstd", "a.mp4", "a", "a/a.mcap"])
def test_a_fifo_is_no_recording(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    with pytest.raises(SourceError, match="not a regular file"):
        open_source(tmp_path / Path(name).parts[0])


def test_a_fifo_is_no_metadata(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam": (IMAGE, images())})
    (bag / "metadata.yaml").unlink()
    os.mkfifo(bag / "metadata.yaml")
    notes = Notes()
    assert len(list(open_source(bag).labelled_frames(notes))) == COUNT
    assert "not a regular file" in notes.all()[0].first


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam": (IMAGE, images())})
    with pytest.raises(SourceError, match="leave out --fps"):
        open_source(bag, fps=10)
    with pytest.raises(SourceError, match="leave out --topic"):
        open_source(write_video(tmp_path / "v.mp4"), topic="/cam")


ROS_1 = b"#ROSBAG V2.0\nE\0\0\0\4\0\0\0op=\3"


@pytest.mark.parametrize(
    "name", ["drive.bag", "drive.bag.active", "drive.mcap", "drive.db3", "drive.mp4", "drive"]
)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (ROS_1, "is a ROS 1 recording: convert it with `rosbags-convert --src drive"),
        (b"#ROSBAG V1.2\n", "is a ROS 1 recording"),
        (b"PK\3\4" + bytes(99), "is a zip file: unpack it"),
        (b"\x1f\x8b\x08" + bytes(99), "is packed by gzip: unpack it"),
    ],
)
def test_what_others_call_a_recording_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    _, jpeg = cv2.imencode(".jpg", picture(1))
    # FFmpeg finds the images in anything.
    (tmp_path / name).write_bytes(content + bytes(400) + jpeg.tobytes() * 9)
    with pytest.raises(SourceError, match=reason):
        open_source(tmp_path / name)
    with pytest.raises(SourceError, match=reason):
        find_streams(tmp_path / name)


@pytest.mark.parametrize("name", ["drive.mjpeg", "drive.h264", "drive.bin", "drive.mp4"])
@pytest.mark.parametrize("comment", [b"", b"G" * 400, b"AVI " * 100])
def test_what_has_no_times_is_no_video(tmp_path: Path, name: str, comment: bytes) -> None:
    jpeg = cv2.imencode(".jpg", picture(1))[1].tobytes()
    segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
    (tmp_path / name).write_bytes((jpeg[:2] + segment + jpeg[2:]) * 9)
    with pytest.raises(SourceError, match="neither a bag nor a video"):
        open_source(tmp_path / name)


def test_a_folder_of_ros_1_recordings_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "drive.bag").write_bytes(ROS_1)
    with pytest.raises(SourceError, match="is a ROS 1 recording"):
        open_source(tmp_path)


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("name", ["renamed", "renamed.bag", "renamed.mcap", "renamed.db3"])
def test_a_bag_is_known_by_its_content(tmp_path: Path, storage: StoragePlugin, name: str) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam": (IMAGE, images())}, storage)
    file = storage_file(bag).rename(tmp_path / name)
    assert len(list(open_source(file).frames())) == COUNT


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mkv", "MJPG"), ("mov", "mp4v"), ("webm", "VP80"), ("ts", "mp4v")]
)
def test_videos_in_other_containers_are_read(tmp_path: Path, suffix: str, codec: str) -> None:
    video = write_video(tmp_path / f"drive.{suffix}", codec=codec)
    assert len(list(open_source(video).frames())) == COUNT


def test_folders_and_hidden_files_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").mkdir()
    (tmp_path / "._b.jpg").write_bytes(b"\0\5\x16\7")
    cv2.imwrite(str(tmp_path / "b.jpg"), picture(1))
    assert [frame.name for frame in open_source(tmp_path).frames()] == ["b"]
