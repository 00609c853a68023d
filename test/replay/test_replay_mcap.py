"""MCAP files of every layout, whole, cut off and damaged."""

import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from zlib import crc32

import lz4.frame
import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from mtc_perception.replay.recordings.bag_files import BagFiles
from mtc_perception.replay.recordings.mcap import (
    CHANNEL,
    CHUNK,
    CHUNK_INDEX,
    DATA_END,
    FOOTER,
    HEAD,
    MAGIC,
    MESSAGE,
    MESSAGE_INDEX,
    SCHEMA,
    STATISTICS,
    McapFile,
    chunk_content,
    split_records,
    text,
)
from mtc_perception.replay.recordings.recording import Notes, SourceError
from mtc_perception.replay.recordings.sources import open_source
from support.bag_messages import (
    COMPRESSED,
    COUNT,
    DETECTIONS,
    IMAGE,
    STORE,
    compressed,
    detections,
    images,
    raw,
    stamp,
    storage_file,
    write_bag,
)
from support.replay_rig import read

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SUMMARY_OFFSET = 0x0E


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
    content = file.read_bytes()
    summary = content.index(HEAD.pack(DATA_END, 4))
    with AnyReader([file], default_typestore=STORE) as rosbags:
        for end in (len(content), summary):  # with the index of the file, and with one made anew
            file.write_bytes(content[:end])
            ours = McapFile(file, STORE)
            assert (ours.start_ns, ours.end_ns) == (rosbags.start_time, rosbags.end_time - 1)
            assert sorted((info.name, info.count) for info in ours.topics) == sorted(
                (connection.topic, connection.msgcount) for connection in rosbags.connections
            )
            for topics in (["/a"], ["/c"], ["/a", "/b"]):
                wanted = [one for one in rosbags.connections if one.topic in topics]
                assert [
                    (info.name, time, data) for info, time, data in ours.messages(topics, Notes())
                ] == [(one.topic, time, data) for one, time, data in rosbags.messages(wanted)]
            assert list(ours.messages(["/none"], Notes())) == []


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


def rechunked(content: bytes, compression: str = "", per_chunk: int = 3) -> bytes:
    """The file in chunks of so many messages, with checksums and all indices, as rosbag2 writes."""
    pack = {"": bytes, "lz4": lz4.frame.compress, "zstd": zstd.compress}[compression]
    written, indices = bytearray(MAGIC), bytearray()
    chunk, places = bytearray(), list[tuple[int, int, int]]()
    chunks = summary = 0

    def close_chunk() -> None:
        nonlocal chunk, places, chunks
        times = [time for _, time, _ in places]
        name = struct.pack("<I", len(compression)) + compression.encode()
        packed = pack(bytes(chunk))
        body = struct.pack("<QQQI", min(times), max(times), len(chunk), crc32(chunk))
        body += name + struct.pack("<Q", len(packed)) + packed
        begin = len(written)
        written.extend(HEAD.pack(CHUNK, len(body)) + body)
        offsets = b""
        for channel in sorted({channel for channel, _, _ in places}):
            offsets += struct.pack("<HQ", channel, len(written))
            entries = b"".join(struct.pack("<QQ", t, at) for one, t, at in places if one == channel)
            index = struct.pack("<HI", channel, len(entries)) + entries
            written.extend(HEAD.pack(MESSAGE_INDEX, len(index)) + index)
        body = struct.pack("<QQQQI", min(times), max(times), begin, 0, len(offsets)) + offsets
        body += struct.pack("<Q", 0) + name + struct.pack("<QQ", len(packed), len(chunk))
        indices.extend(HEAD.pack(CHUNK_INDEX, len(body)) + body)
        chunk, places = bytearray(), []
        chunks += 1

    for kind, body in records_of(without_chunks(content)):
        record = HEAD.pack(kind, len(body)) + body
        if kind in (SCHEMA, CHANNEL, MESSAGE) and not summary:
            if kind == MESSAGE:
                channel, _, time = struct.unpack_from("<HIQ", body)
                places.append((channel, time, len(chunk)))
            chunk += record
            if len(places) == per_chunk:
                close_chunk()
            continue
        if kind == STATISTICS:
            body = body[:22] + struct.pack("<I", chunks) + body[26:]
            record = bytes(indices) + HEAD.pack(kind, len(body)) + body
        if kind == DATA_END and places:
            close_chunk()
        if kind == FOOTER:
            record = HEAD.pack(FOOTER, 20) + struct.pack("<QQ", summary, 0)
            record += struct.pack("<I", crc32(written[summary:] + record))
        written += record
        if kind == DATA_END:
            summary = len(written)
    return bytes(written + MAGIC)


def drive(tmp_path: Path, count: int = 12) -> tuple[Path, bytes]:
    """A file of three topics with equal times, an image and its labels as a rule, and its bytes."""
    messages = [raw(index) for index in range(count)]
    topics = dict.fromkeys(("/cam", "/left", "/right"), (IMAGE, messages))
    file = storage_file(write_bag(tmp_path / "bag", topics, StoragePlugin.MCAP))
    return file, in_order(file.read_bytes())


def in_order(content: bytes) -> bytes:
    """The file's messages, in no chunks, by their time of recording."""
    records = list(records_of(without_chunks(content)))
    messages = [body for kind, body in records if kind == MESSAGE]
    messages.sort(key=lambda body: struct.unpack_from("<6xQ", body))
    end = next(place for place, (kind, _) in enumerate(records) if kind == DATA_END)
    rest = [one for one in records if one[0] != MESSAGE]
    end -= len(messages)
    return rewritten([*rest[:end], *((MESSAGE, body) for body in messages), *rest[end:]])


def found(file: Path, notes: Notes) -> list[tuple[str, int]]:
    """Topic and time of recording of all messages."""
    bag = BagFiles(file)
    topics = {info.name: (info.kind,) for info in bag.summary().topics}
    return [(message.topic, message.recorded_ns) for message in bag.messages(topics, notes)]


@pytest.mark.parametrize("compression", ["", "lz4", "zstd"])
def test_files_of_every_compression_are_read(tmp_path: Path, compression: str) -> None:
    file, content = drive(tmp_path)
    file.write_bytes(content)
    loose = found(file, Notes())
    assert len(loose) == 36
    file.write_bytes(rechunked(content, compression))
    notes = Notes()
    assert found(file, notes) == loose
    assert notes.all() == []


def whole_messages(content: bytes) -> list[tuple[int, int]]:
    """Channel and time of the messages in the whole records at the beginning of a file."""
    found, position = list[tuple[int, int]](), len(MAGIC)
    while position + HEAD.size <= len(content):
        kind, length = HEAD.unpack_from(content, position)
        position += HEAD.size + length
        if position > len(content) or kind == DATA_END:
            break
        body = memoryview(content)[position - length : position]
        parts = split_records(chunk_content(body)) if kind == CHUNK else [(kind, body)]
        found += [struct.unpack_from("<H4xQ", part) for one, part in parts if one == MESSAGE]
    return found


def bare_chunks(content: bytes) -> bytes:
    """As rosbag2's option `noMessageIndex` writes before the summary."""
    return rewritten(
        (kind, body) for kind, body in records_of(rechunked(content)) if kind != MESSAGE_INDEX
    )


@pytest.mark.parametrize(
    "layout", [rechunked, lambda content: content, bare_chunks], ids=["chunks", "loose", "bare"]
)
def test_a_file_that_is_cut_off_anywhere_is_read_up_to_there(
    tmp_path: Path, layout: Callable[[bytes], bytes]
) -> None:
    file, content = drive(tmp_path, 4)
    content = layout(content)
    end = content.index(HEAD.pack(DATA_END, 4))
    cuts = [*range(end // 3, end, 9_000), end]
    if layout is rechunked:  # where only some of the indices of a chunk are left
        begin = content.index(HEAD.pack(MESSAGE_INDEX, 22))
        cuts += range(begin, begin + 100, 7)
    for cut in cuts:
        file.write_bytes(content[:cut])
        expected = whole_messages(content[:cut])
        notes = Notes()
        assert [time for _, time in found(file, notes)] == sorted(time for _, time in expected)
        counts = [info.count for info in BagFiles(file).summary().topics]
        assert sum(counts) == len(expected)
        assert [note.kind for note in notes.all()] == ["truncated file"]


@pytest.mark.parametrize("compression", ["", "lz4", "zstd"])
@pytest.mark.parametrize("cut", [False, True])
def test_damaged_chunks_and_nothing_else_are_left_out(
    tmp_path: Path, compression: str, cut: bool
) -> None:
    """Whichever they are, with an index and without; times that many messages have do not count."""
    file, content = drive(tmp_path)
    content = rechunked(content, compression, per_chunk=2)
    end = content.index(HEAD.pack(DATA_END, 4)) if cut else len(content)
    places = [place for kind, place in places_of(content) if kind == CHUNK]
    file.write_bytes(content)
    everything = found(file, Notes())
    assert len(places) == len(everything) / 2
    for damaged in range(2 if cut else 0, len(places)):  # the first ones tell what a channel is
        place = places[damaged] + 100
        changed = bytes([content[place] ^ 0x55])
        file.write_bytes(content[:place] + changed + content[place + 1 : end])
        notes = Notes()
        assert found(file, notes) == everything[: 2 * damaged] + everything[2 * damaged + 2 :]
        kinds = [note.kind for note in notes.all()]
        assert kinds == (["truncated file", "damaged chunk"] if cut else ["damaged chunk"])


def places_of(content: bytes) -> Iterator[tuple[int, int]]:
    """Kind and first byte of every record."""
    position = len(MAGIC)
    for kind, body in records_of(content):
        yield kind, position
        position += HEAD.size + len(body)


def test_a_damaged_index_is_made_anew(tmp_path: Path) -> None:
    file, content = drive(tmp_path)
    content = rechunked(content)
    file.write_bytes(content)
    everything = found(file, Notes())
    for kind, place in places_of(content):
        if kind == CHUNK_INDEX:
            at = place + HEAD.size + 17  # of the chunk's place
            file.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
            assert found(file, Notes()) == everything


@pytest.mark.parametrize("tail", [bytes(500), HEAD.pack(MESSAGE, 3) + bytes(3)])
def test_what_a_crash_leaves_behind_the_last_message_does_no_harm(
    tmp_path: Path, tail: bytes
) -> None:
    """Blocks of a file that were never written are zeros; others may hold anything."""
    file, content = drive(tmp_path)
    content = rechunked(content)
    file.write_bytes(content)
    everything = found(file, Notes())
    end = content.index(HEAD.pack(DATA_END, 4))
    file.write_bytes(content[:end] + tail)
    assert found(file, Notes()) == everything


def with_schemas(
    content: bytes, topic: str, encoding: str = "cdr", definition: str | None = None
) -> bytes:
    """The file with another message encoding, or type definition, of one topic."""

    def string(value: str) -> bytes:
        return struct.pack("<I", len(value)) + value.encode()

    schema = next(
        body[2:4] for kind, body in records_of(content) if kind == CHANNEL and string(topic) in body
    )
    records = []
    for kind, body in records_of(content):
        if kind == CHANNEL and body[4:].startswith(string(topic)):
            begin = 4 + len(string(topic))
            body = body[:begin] + string(encoding) + body[begin + len(string("cdr")) :]
        elif kind == SCHEMA and body.startswith(schema) and definition is not None:
            name, _ = text(memoryview(body)[2:])
            body = body[:2] + string(name) + string("ros2msg") + string(definition)
        records.append((kind, body))
    return rewritten(records)


def two_topics(tmp_path: Path, other: str = DETECTIONS) -> tuple[Path, bytes]:
    messages = [detections(i) if other == DETECTIONS else compressed(i) for i in range(COUNT)]
    topics = {"/cam": (IMAGE, images()), "/other": (other, messages)}
    file = storage_file(write_bag(tmp_path / "bag", topics))
    return file, in_order(file.read_bytes())


BROKEN = "MSG: a/srv/B_Event\n" + "=" * 80 + "\nSRV: a/srv/B\n---\nint8 x\n"


@pytest.mark.parametrize(
    ("topic", "definition", "noted"),
    [
        ("/other", BROKEN, [f"/other ({DETECTIONS}): Could not parse"]),
        ("/other", "", []),
        ("/cam", "", []),
        ("/cam", BROKEN, [f"/cam ({IMAGE}): Could not parse"]),
    ],
)
def test_a_definition_that_is_missing_or_broken_costs_nothing_else(
    tmp_path: Path, topic: str, definition: str, noted: list[str]
) -> None:
    file, content = two_topics(tmp_path)
    file.write_bytes(with_schemas(content, topic, definition=definition))
    source = open_source(file)
    assert [int(frame.pixels.decode().pixels[0, 0, 0]) for frame in source.frames()] == [
        *(10, 50, 90, 130, 170)
    ]
    _, notes = read(source)
    assert [note.kind for note in notes] == ["unreadable definition"] * len(noted)
    assert all(note.first.startswith(words) for note, words in zip(notes, noted, strict=True))


def test_a_definition_in_a_file_goes_before_the_standard_one(tmp_path: Path) -> None:
    file, content = two_topics(tmp_path)
    other = "std_msgs/Header header\nuint32 rows\nuint32 columns\nstring colours\nuint8 order\n"
    other += "uint32 step\nuint8[] data\n"
    file.write_bytes(with_schemas(content, "/cam", definition=other))
    [message, *_] = BagFiles(file).messages({"/cam": (IMAGE,)}, Notes())
    assert message.content.colours == "rgb8"


@pytest.mark.parametrize("encoding", ["json", "protobuf", "ros1"])
def test_messages_that_are_not_as_ros_2_serialises_them_are_refused_by_name(
    tmp_path: Path, encoding: str
) -> None:
    file, content = two_topics(tmp_path, COMPRESSED)
    one = with_schemas(content, "/cam", encoding)
    file.write_bytes(one)
    source = open_source(file)
    assert (source.info.topic, source.info.frames) == ("/other", COUNT)
    _, [note] = read(source)
    assert (note.kind, note.first) == (
        "images of no camera",
        f"/cam: serialised as {encoding}, where cdr can be read",
    )
    with pytest.raises(SourceError, match=rf"no images on /cam \(serialised as {encoding}"):
        open_source(file, topic="/cam")
    file.write_bytes(with_schemas(one, "/other", encoding))
    reason = "is a ROS 1 recording: convert it with `rosbags-convert --src bag.mcap"
    if encoding != "ros1":
        reason = (
            rf"no camera images; /cam: serialised as {encoding}, where cdr can be read; /other: "
        )
    with pytest.raises(SourceError, match=reason):
        open_source(file)
