"""Whole bags: every storage, cameras, which topic is played."""

import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from mtc_perception.replay.recordings.mcap import (
    CHUNK,
    CHUNK_INDEX,
    DATA_END,
    FOOTER,
    HEAD,
    MAGIC,
    STATISTICS,
    IndexedMcap,
    chunk_content,
    split_records,
)
from mtc_perception.replay.recordings.recording import (
    EncodedPixels,
    Notes,
    RawPixels,
    SourceError,
)
from mtc_perception.replay.recordings.sources import open_source
from mtc_perception.replay.recordings.storage import IndexedFile
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
    images,
    mask,
    raw,
    split_bag,
    stamp,
    storage_file,
    write_bag,
)

MESSAGE_INDEX, SUMMARY_OFFSET = 0x07, 0x0E


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


def records_of(content: bytes, begin: int = len(MAGIC)) -> Iterator[tuple[int, bytes]]:
    """Kind and body of every record of an MCAP file, up to the magic bytes at its end."""
    while begin < len(content) - len(MAGIC):
        kind, length = HEAD.unpack_from(content, begin)
        begin += HEAD.size + length
        yield kind, content[begin - length : begin]


def rewritten(records: Iterable[tuple[int, bytes]]) -> bytes:
    """An MCAP file of these records, whose footer points to the summary behind DATA_END."""
    content, summary = bytearray(MAGIC), 0
    for kind, body in records:
        if kind == FOOTER:
            body = struct.pack("<QQI", summary, 0, 0)
        content += HEAD.pack(kind, len(body)) + body
        if kind == DATA_END:
            summary = len(content)
    return bytes(content + MAGIC)


def without_chunks(content: bytes) -> bytes:
    """As rosbag2's preset `fastwrite` leaves a file: no chunks, and a summary."""
    records: list[tuple[int, bytes]] = []
    for kind, body in records_of(content):
        if kind == CHUNK:
            inside = split_records(chunk_content(memoryview(body)))
            records += [(inner, bytes(part)) for inner, part in inside]
        elif kind == STATISTICS:
            # Behind messages, schemas, channels, attachments and metadata is the number of chunks.
            records.append((kind, body[:22] + bytes(4) + body[26:]))
        elif kind not in (MESSAGE_INDEX, CHUNK_INDEX, SUMMARY_OFFSET):
            records.append((kind, body))
    return rewritten(records)


def without_message_index(content: bytes) -> bytes:
    """As rosbag2's option `noMessageIndex` leaves a file: chunks do not tell their topics."""
    summary = content.index(HEAD.pack(DATA_END, 4)) + HEAD.size + 4
    records = []
    for kind, body in records_of(content, summary):
        if kind == CHUNK_INDEX:
            (length,) = struct.unpack_from("<I", body, 32)
            body = body[:32] + bytes(4) + body[36 + length :]
        if kind == FOOTER:
            body = struct.pack("<QQI", summary, 0, 0)
        records.append(HEAD.pack(kind, len(body)) + body)
    return content[:summary] + b"".join(records) + MAGIC


@pytest.mark.parametrize("thin", [without_chunks, without_message_index])
def test_files_without_an_index_of_their_messages_are_read(
    tmp_path: Path, thin: Callable[[bytes], bytes]
) -> None:
    topics = {"/a": (IMAGE, images()), "/b": (IMAGE, images())}
    bag = write_bag(tmp_path / "bag", topics, StoragePlugin.MCAP)
    file = storage_file(bag)
    whole = list(open_source(bag, "/b").frames())
    file.write_bytes(thin(file.read_bytes()))
    source, notes = open_source(bag, "/b"), Notes()
    assert source.info.frames == COUNT
    found = [frame for frame, _ in source.labelled_frames(notes)]
    assert [frame.stamp_ns for frame in found] == [frame.stamp_ns for frame in whole]
    assert notes.all() == []


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
