"""Recordings of every kind, as they are found: whole, damaged, ambiguous, labelled or not."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from mtc_perception.errors import UserError
from mtc_perception.replay.frames import EncodedPixels, RawPixels, SourceError, first_seconds
from mtc_perception.replay.sources import open_source
from mtc_perception.replay.typestore import ros_typestore

WIDTH, HEIGHT, COUNT, PERIOD_NS = 64, 48, 5, 100_000_000
START_NS = 1_700_000_000_000_000_000
STORE = ros_typestore()
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
DETECTIONS = "vision_msgs/msg/Detection2DArray"


def stamp(index: int) -> int:
    return START_NS + index * PERIOD_NS


def header(stamp_ns: int) -> Any:
    time = STORE.types["builtin_interfaces/msg/Time"](stamp_ns // 10**9, stamp_ns % 10**9)
    return STORE.types["std_msgs/msg/Header"](stamp=time, frame_id="camera")


def picture(index: int) -> npt.NDArray[np.uint8]:
    """One grey level per image, so that JPEG keeps it."""
    return np.full((HEIGHT, WIDTH, 3), 40 * index + 10, np.uint8)


def raw(index: int, encoding: str = "rgb8", pad: int = 0) -> Any:
    pixels = picture(index) if encoding == "rgb8" else picture(index)[..., 0]
    rows = np.pad(pixels.reshape(HEIGHT, -1), ((0, 0), (0, pad)))
    return STORE.types[IMAGE](
        header(stamp(index)), HEIGHT, WIDTH, encoding, 0, rows.shape[1], rows.ravel()
    )


def compressed(index: int) -> Any:
    _, data = cv2.imencode(".jpg", picture(index))
    return STORE.types[COMPRESSED](header(stamp(index)), "jpeg", data.ravel())


def mask(index: int, column: int) -> Any:
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[:, :column] = 255
    return STORE.types[IMAGE](
        header(stamp(index)), HEIGHT, WIDTH, "mono8", 0, WIDTH, pixels.ravel()
    )


def detections(index: int, *boxes: tuple[float, float, float, float, str]) -> Any:
    types = STORE.types
    pose = types["geometry_msgs/msg/PoseWithCovariance"](
        types["geometry_msgs/msg/Pose"](
            types["geometry_msgs/msg/Point"](0.0, 0.0, 0.0),
            types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0),
        ),
        np.zeros(36),
    )
    found = []
    for x1, y1, x2, y2, name in boxes:
        center = types["vision_msgs/msg/Point2D"]((x1 + x2) / 2, (y1 + y2) / 2)
        box = types["vision_msgs/msg/BoundingBox2D"](
            types["vision_msgs/msg/Pose2D"](center, 0.0), x2 - x1, y2 - y1
        )
        hypothesis = types["vision_msgs/msg/ObjectHypothesis"]("vehicle", 1.0)
        result = types["vision_msgs/msg/ObjectHypothesisWithPose"](hypothesis, pose)
        found.append(
            types["vision_msgs/msg/Detection2D"](header(stamp(index)), [result], box, name)
        )
    return types[DETECTIONS](header(stamp(index)), found)


def write_bag(
    path: Path,
    topics: Mapping[str, tuple[str, list[Any]]],
    storage: StoragePlugin = StoragePlugin.MCAP,
    compression: CompressionMode | None = None,
) -> Path:
    writer = Writer(path, version=8, storage_plugin=storage)
    if compression is not None:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        for topic, (kind, messages) in topics.items():
            connection = writer.add_connection(topic, kind, typestore=STORE)
            for index, message in enumerate(messages):
                writer.write(connection, stamp(index) + 7, STORE.serialize_cdr(message, kind))
    return path


def images(kind: Any = raw) -> list[Any]:
    return [kind(index) for index in range(COUNT)]


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
    truths = dict(open_source(write_bag(tmp_path / "bag", topics)).truths())
    assert list(truths) == [stamp(0), stamp(1), stamp(2)]
    first, second, third = truths.values()
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
    assert list(open_source(bag).truths()) == []


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.95])
def test_a_truncated_bag_is_an_error_that_names_it(
    tmp_path: Path, storage: StoragePlugin, keep: float
) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam": (IMAGE, images())}, storage)
    file = next(f for f in bag.iterdir() if f.suffix in (".mcap", ".db3"))
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(SourceError, match="cannot be read as a rosbag2"):
        list(open_source(bag).frames())


def test_a_bag_with_broken_metadata_is_an_error(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam": (IMAGE, images())})
    (bag / "metadata.yaml").write_text("rosbag2_bagfile_information: [")
    with pytest.raises(SourceError, match="cannot be read as a rosbag2"):
        open_source(bag)


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
    truths = dict(source.truths())
    assert list(truths) == [0, 200_000_000]  # image c has no label at all
    first, second = truths.values()
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
    assert list(source.truths()) == []


def test_the_root_of_a_data_set_names_its_splits(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    with pytest.raises(SourceError, match=r"give .*images/val"):
        open_source(tmp_path)


def test_broken_labels_are_named(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path)
    (tmp_path / "det/val.json").write_text("{}")
    with pytest.raises(UserError, match=r"val\.json: not a COCO file"):
        list(open_source(folder).truths())
    (tmp_path / "det/val.json").unlink()
    (tmp_path / "lane/val/a.png").write_bytes(b"no png")
    with pytest.raises(UserError, match=r"a\.png: not a readable image"):
        list(open_source(folder).truths())


def test_what_cannot_be_a_recording_says_so(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(SourceError, match="neither a bag nor a video"):
        open_source(tmp_path / "text.mp4")
    with pytest.raises(SourceError, match="does not exist"):
        open_source(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds neither images"):
        open_source(tmp_path / "empty")
    (tmp_path / "lonely.db3").write_bytes(b"")
    with pytest.raises(SourceError, match=r"metadata\.yaml is missing"):
        open_source(tmp_path / "lonely.db3")


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam": (IMAGE, images())})
    with pytest.raises(SourceError, match="leave out --fps"):
        open_source(bag, fps=10)
    with pytest.raises(SourceError, match="leave out --topic"):
        open_source(write_video(tmp_path / "v.mp4"), topic="/cam")
