"""Recordings of every kind, as they are found: whole, damaged, ambiguous, labelled or not."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_messages import (
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
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from mtc_perception.errors import ImageError, UserError
from mtc_perception.metrics import GroundTruth
from mtc_perception.replay.bags.mcap_index import IndexedMcap
from mtc_perception.replay.bags.storage import IndexedFile
from mtc_perception.replay.bags.truth_topics import TruthTopics
from mtc_perception.replay.frames import (
    EncodedPixels,
    FrameSource,
    RawPixels,
    SourceError,
    first_seconds,
)
from mtc_perception.replay.notes import Note, Notes
from mtc_perception.replay.sources.open import open_source


def truths(source: FrameSource) -> dict[int, GroundTruth]:
    """Labels by image stamp."""
    frames = source.labelled_frames(Notes())
    return {frame.stamp_ns: truth for frame, truth in frames if truth is not None}


def read(source: FrameSource) -> tuple[list[int], list[Note]]:
    """The images' indices, and what was noted."""
    notes = Notes()
    return [frame.index for frame, _ in source.labelled_frames(notes)], notes.all()


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


def storage_file(bag: Path) -> Path:
    return next(file for file in bag.iterdir() if file.suffix in (".mcap", ".db3", ".zstd"))


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
@pytest.mark.parametrize("keep", [0.6, 0.98])
def test_what_a_truncated_bag_still_holds_is_read(
    tmp_path: Path, storage: StoragePlugin, compression: CompressionMode | None, keep: float
) -> None:
    random = np.random.default_rng(0)
    noise = [raw(0) for _ in range(300)]
    for index, message in enumerate(noise):  # nothing that compression could make small
        message.header.stamp = header(stamp(index)).stamp
        message.data = random.integers(0, 256, message.data.size, dtype=np.uint8)
    topics = {"/cam": (IMAGE, noise)}
    bag = write_bag(tmp_path / "bag", topics, storage, compression)
    file = storage_file(bag)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])
    indices, notes = read(open_source(bag))
    assert indices == list(range(len(indices)))
    assert 0.25 * keep * 300 < len(indices) < 300
    assert "truncated file" in {note.kind for note in notes}
    frames = list(open_source(bag).frames())
    assert [frame.stamp_ns for frame in frames] == [stamp(index) for index in indices]
    last = frames[-1].pixels
    assert isinstance(last, RawPixels)
    assert np.array_equal(last.data, noise[len(indices) - 1].data)


@pytest.mark.parametrize("compression", [None, CompressionMode.STORAGE])
def test_chunks_are_merged_as_rosbags_does(
    tmp_path: Path, compression: CompressionMode | None
) -> None:
    """Two topics, chunks that overlap in time, and one far behind all others."""
    random = np.random.default_rng(3)
    writer = Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.MCAP)
    if compression is not None:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        connections = [
            writer.add_connection(topic, IMAGE, typestore=STORE) for topic in ("/a", "/b", "/c")
        ]
        for index in range(900):
            message = raw(index)
            message.data = random.integers(0, 256, message.data.size, dtype=np.uint8)
            late_ns = int(random.integers(0, 200)) * 10**8 + index
            recorded_ns = 7 if index == 450 else stamp(index) + late_ns
            data = STORE.serialize_cdr(message, IMAGE)
            writer.write(connections[index % 2 + (index > 800)], recorded_ns, data)
    file = storage_file(tmp_path / "bag")
    ours = IndexedMcap(file, STORE)
    rosbags = IndexedFile(file, STORE)
    assert (ours.start_ns, ours.end_ns) == (rosbags.start_ns, rosbags.end_ns)
    assert sorted(ours.topics, key=str) == sorted(rosbags.topics, key=str)
    for topics in (["/a"], ["/c"], ["/a", "/b"], ["/none"]):
        assert list(ours.messages(topics)) == list(rosbags.messages(topics))
    rosbags.close()


def test_a_bag_with_a_damaged_middle_is_read_around_it(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    noise = [raw(0) for _ in range(500)]
    for index, message in enumerate(noise):
        message.header.stamp = header(stamp(index)).stamp
        message.data = random.integers(0, 256, message.data.size, dtype=np.uint8)
    bag = write_bag(
        tmp_path / "bag",
        {"/cam": (IMAGE, noise)},
        StoragePlugin.MCAP,
        CompressionMode.STORAGE,
    )
    file = storage_file(bag)
    content = bytearray(file.read_bytes())
    chunk = content.index(b"\x28\xb5\x2f\xfd", len(content) // 2)  # begins each compressed chunk
    content[chunk : chunk + 4] = bytes(4)
    file.write_bytes(content)
    indices, notes = read(open_source(bag))
    assert indices == list(range(len(indices)))
    stamps = [frame.stamp_ns for frame in open_source(bag).frames()]
    assert stamps == sorted(set(stamps))
    # All but the one chunk of three.
    assert (stamps[0], stamps[-1]) == (stamp(0), stamp(499))
    assert 300 < len(stamps) < 450
    assert [note.kind for note in notes] == ["damaged file", "damaged chunk"]


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("keep", [0, 4, 200])
def test_a_bag_without_anything_readable_is_an_error_that_names_it(
    tmp_path: Path, storage: StoragePlugin, keep: int
) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam": (IMAGE, images())}, storage)
    file = storage_file(bag)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(SourceError, match=rf"{file.name} cannot be read as a rosbag2"):
        open_source(bag)


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("content", [None, "rosbag2_bagfile_information: [", "files: 3"])
def test_a_bag_without_usable_metadata_is_read(
    tmp_path: Path, storage: StoragePlugin, content: str | None
) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam": (IMAGE, images())}, storage)
    (bag / "metadata.yaml").unlink()
    if content is not None:
        (bag / "metadata.yaml").write_text(content)
    indices, notes = read(open_source(bag))
    assert indices == list(range(COUNT))
    assert [note.kind for note in notes] == ["damaged metadata" if content else "no metadata"]


def split_bag(tmp_path: Path) -> Path:
    """A bag of twelve files with one image each, as `ros2 bag record -b` makes them."""
    bag = tmp_path / "split"
    bag.mkdir()
    names = [f"split_{index}.mcap" for index in range(12)]
    for index, name in enumerate(names):
        whole = write_bag(tmp_path / name.removesuffix(".mcap"), {"/cam": (IMAGE, [raw(index)])})
        storage_file(whole).rename(bag / name)
    lines = [
        "rosbag2_bagfile_information:",
        "  relative_file_paths:",
        *[f"    - {name}" for name in names],
    ]
    (bag / "metadata.yaml").write_text("\n".join(lines))
    return bag


def test_the_files_of_a_split_bag_are_read_in_order(tmp_path: Path) -> None:
    bag = split_bag(tmp_path)
    expected = [stamp(index) for index in range(12)]
    assert [frame.stamp_ns for frame in open_source(bag).frames()] == expected
    (bag / "metadata.yaml").unlink()  # by name, split_10 would come before split_2
    assert [frame.stamp_ns for frame in open_source(bag).frames()] == expected
    assert open_source(bag).info.frames == 12


def test_a_split_bag_is_read_without_its_missing_and_broken_files(tmp_path: Path) -> None:
    bag = split_bag(tmp_path)
    (bag / "split_3.mcap").unlink()
    (bag / "split_5.mcap").write_bytes(b"no mcap")
    frames, notes = read(open_source(bag))
    assert len(frames) == 10
    assert [(note.kind, note.count) for note in notes] == [
        ("missing file", 1),
        ("unreadable file", 1),
    ]
    assert "split_3.mcap" in notes[0].first


def test_messages_that_are_damaged_are_images_that_cannot_be_decoded(tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    with Writer(bag, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/cam", IMAGE, typestore=STORE)
        for index in range(3):
            data = STORE.serialize_cdr(raw(index), IMAGE)
            writer.write(connection, stamp(index), data[: 20 if index == 1 else len(data)])
    frames = list(open_source(bag).frames())
    assert [frame.index for frame in frames] == [0, 1, 2]
    with pytest.raises(ImageError, match="/cam: "):
        frames[1].pixels.decode()
    assert frames[1].stamp_ns == stamp(1)  # the time of recording is left


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


def write_video(path: Path, rate_hz: float = 20.0) -> Path:
    code = cv2.VideoWriter.fourcc(*"mp4v")
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
    assert first.truth is None
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


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam": (IMAGE, images())})
    with pytest.raises(SourceError, match="leave out --fps"):
        open_source(bag, fps=10)
    with pytest.raises(SourceError, match="leave out --topic"):
        open_source(write_video(tmp_path / "v.mp4"), topic="/cam")
