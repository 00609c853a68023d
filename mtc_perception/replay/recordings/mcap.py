"""Reads whole MCAP files by their index, with a few bytes of memory per chunk.

rosbags reads them as well, with some kilobytes per chunk: in an hour of raw images that is more
than everything else together. Messages come in the same order, that of their times of recording.
"""

import heapq
import struct
from array import array
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np
from lz4.frame import decompress as lz4_decompress
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from mtc_perception.replay.recordings.recording import Notes, SourceError
from mtc_perception.replay.recordings.storage import TopicInfo, message_bytes, unzstd

MAGIC = b"\x89MCAP0\r\n"
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK = 0x02, 0x03, 0x04, 0x05, 0x06
CHUNK_INDEX, STATISTICS, DATA_END = 0x08, 0x0B, 0x0F
HEAD = struct.Struct("<BQ")
"""Kind of a record, and the length of its body."""
_CHUNK_HEAD = struct.Struct("<QQQI")
_MESSAGE_HEAD = struct.Struct("<HIQQ")


class Channels:
    """The channels and schemas of a file, learned from its records."""

    def __init__(self) -> None:
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self._topics: dict[int, tuple[str, int]] = {}

    def learn(self, kind: int, body: memoryview) -> None:
        """Take in a record, if it is of a kind that matters here."""
        if kind == SCHEMA:
            number, rest = _number(body)
            name, rest = text(rest)
            encoding, rest = text(rest)
            definition, _ = text(rest)
            self._schemas[number] = (name, encoding, definition)
        elif kind == CHANNEL:
            number, rest = _number(body)
            schema, rest = _number(rest)
            topic, _ = text(rest)
            self._topics[number] = (topic, schema)

    def topic(self, channel: int) -> tuple[str, str]:
        """Topic and message type of a channel; empty where no record tells."""
        name, schema = self._topics.get(channel, ("", 0))
        return name, self._schemas.get(schema, ("", "", ""))[0]

    def typestore(self, default: Typestore) -> Typestore:
        """The types that the file defines, or the default ones where it defines none."""
        types: dict[str, Any] = {}
        for name, encoding, definition in self._schemas.values():
            if encoding == "ros2msg":
                types |= get_types_from_msg(definition, name)
            elif encoding in ("ros2idl", "omgidl"):
                types |= get_types_from_idl(definition)
        if not types:
            return default
        store = get_typestore(Stores.EMPTY)
        store.register(types)
        return store


def read_message(body: memoryview) -> tuple[int, int, memoryview]:
    """Channel, time of recording in ns and content of a message record."""
    channel, _, recorded_ns, _ = _MESSAGE_HEAD.unpack_from(body)
    return channel, recorded_ns, body[_MESSAGE_HEAD.size :]


def chunk_content(body: memoryview) -> memoryview:
    """The records in a chunk. Raises ValueError, or the errors of its compression."""
    _, _, size, checksum = _CHUNK_HEAD.unpack_from(body)
    compression, rest = text(body[_CHUNK_HEAD.size :])
    (length,) = struct.unpack_from("<Q", rest)
    packed = rest[8 : 8 + length]
    content: bytes | memoryview
    if compression == "zstd":
        content = unzstd(packed)
    elif compression == "lz4":
        content = lz4_decompress(packed)
    elif compression == "":
        content = packed
    else:
        raise ValueError(f"compression {compression}")
    if len(content) != size:
        raise ValueError("a chunk of another size than it says")
    if checksum and crc32(content) != checksum:
        raise ValueError("a chunk's checksum is wrong")
    return memoryview(content)


def split_records(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Kind and body of the records that follow each other in `content`."""
    position = 0
    while position + HEAD.size <= len(content):
        kind, length = HEAD.unpack_from(content, position)
        position += HEAD.size
        yield kind, content[position : position + length]
        position += length


def text(body: memoryview) -> tuple[str, memoryview]:
    """A string at the beginning of `body`, and what is behind it."""
    (length,) = struct.unpack_from("<I", body)
    return bytes(body[4 : 4 + length]).decode(errors="replace"), body[4 + length :]


def _number(body: memoryview) -> tuple[int, memoryview]:
    return struct.unpack_from("<H", body)[0], body[2:]


class ScannedMcap:
    """An MCAP file read from its beginning to where it ends or breaks off."""

    def __init__(self, path: Path, typestore: Typestore, notes: Notes) -> None:
        """Reads the file once. Raises SourceError if it is no MCAP file or holds no message."""
        self.path = path
        self._channels = Channels()
        counts: dict[int, int] = {}
        first_ns, last_ns = 2**63, -1
        for channel, recorded_ns, _ in scan_messages(path, self._channels, notes):
            counts[channel] = counts.get(channel, 0) + 1
            first_ns, last_ns = min(first_ns, recorded_ns), max(last_ns, recorded_ns)
        if not counts:
            raise SourceError(f"{path} is cut off before its first message")
        self.start_ns, self.end_ns = first_ns, last_ns
        self.topics = [
            TopicInfo(*self._channels.topic(channel), count) for channel, count in counts.items()
        ]
        self._typestore = self._channels.typestore(typestore)

    def messages(self, topics: Collection[str]) -> Iterator[tuple[TopicInfo, int, bytes]]:
        """Messages in the order of the file."""
        known = {info.name: info for info in self.topics if info.name in topics}
        for channel, recorded_ns, data in scan_messages(self.path, self._channels, Notes()):
            name, _ = self._channels.topic(channel)
            if name in known:
                yield known[name], recorded_ns, message_bytes(bytes(data))

    def deserialize(self, data: bytes, kind: str) -> Any:
        return self._typestore.deserialize_cdr(data, kind)

    def close(self) -> None:
        """Nothing stays open."""


def scan_messages(
    path: Path, channels: Channels, notes: Notes
) -> Iterator[tuple[int, int, memoryview]]:
    """Channel, time and content of every message; `channels` learns on the way.

    Raises SourceError for what is no MCAP file.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise SourceError(f"{path} is no MCAP file")
        for kind, body in _records(path, file, notes):
            if kind == DATA_END:
                return
            if kind != CHUNK:
                yield from _message(channels, kind, body)
                continue
            try:
                content = chunk_content(body)
            except Exception as error:  # each compression has errors of its own
                notes.add("damaged chunk", f"{path.name}: {type(error).__name__}")
                continue
            for inner, part in split_records(content):
                yield from _message(channels, inner, part)


def _records(path: Path, file: BinaryIO, notes: Notes) -> Iterator[tuple[int, memoryview]]:
    size = path.stat().st_size
    while len(head := file.read(HEAD.size)) == HEAD.size:
        kind, length = HEAD.unpack(head)
        if file.tell() + length > size:
            break
        yield kind, memoryview(file.read(length))
    notes.add("truncated file", f"{path.name} breaks off after {size} bytes")


def _message(
    channels: Channels, kind: int, body: memoryview
) -> Iterator[tuple[int, int, memoryview]]:
    if kind == MESSAGE:
        yield read_message(body)
    else:
        channels.learn(kind, body)


_FOOTER_BYTES = HEAD.size + 20 + len(MAGIC)
_INDEX_HEAD = struct.Struct("<QQQQI")
_CHANNEL_AT = struct.Struct("<HQ")
_STATISTICS_HEAD = struct.Struct("<QHIIIIQQI")


class IndexedMcap:
    """A whole MCAP file.

    rosbag2's preset `fastwrite` leaves out chunks, its option `noMessageIndex` what the index says
    of a chunk's topics. Such a file is read from its beginning, in the order it was written.
    """

    def __init__(self, path: Path, typestore: Typestore) -> None:
        """`typestore` is for files that define no types.

        Raises ValueError, or the errors of struct, where the file is damaged or laid out in another
        way.
        """
        self.path = path
        self._channels = Channels()
        self._starts_ns, self._offsets = array("Q"), array("Q")
        self._sets = array("H")
        self._channel_sets: dict[frozenset[int], int] = {}
        statistics: tuple[int, int, int, int, dict[int, int]] | None = None
        with path.open("rb") as file:
            for kind, body in self._summary(file):
                self._channels.learn(kind, body)
                if kind == CHUNK_INDEX:
                    self._add_chunk(body)
                elif kind == STATISTICS:
                    statistics = _statistics(body)
        if statistics is None:
            raise ValueError("no statistics in the summary")
        messages, chunks, self.start_ns, self.end_ns, counts = statistics
        if chunks != len(self._offsets) or messages != sum(counts.values()):
            raise ValueError("the index is not complete")
        self.topics = [TopicInfo(*self._channels.topic(one), n) for one, n in counts.items()]
        self._indexed = bool(chunks) and frozenset() not in self._channel_sets
        self._typestore = self._channels.typestore(typestore)

    def messages(self, topics: Collection[str]) -> Iterator[tuple[TopicInfo, int, bytes]]:
        """Messages by time of recording; of equal ones, in the order of the file."""
        infos = {info.name: info for info in self.topics if info.name in topics}
        if not self._indexed:
            for channel, recorded_ns, body in scan_messages(self.path, self._channels, Notes()):
                name, _ = self._channels.topic(channel)
                if name in infos:
                    yield infos[name], recorded_ns, message_bytes(bytes(body))
            return
        waiting: list[tuple[int, int, TopicInfo, bytes]] = []
        number = 0
        with self.path.open("rb") as file:
            for start_ns, offset in self._wanted(infos):
                while waiting and waiting[0][0] < start_ns:
                    recorded_ns, _, info, data = heapq.heappop(waiting)
                    yield info, recorded_ns, data
                for channel, recorded_ns, body in _chunk_messages(file, offset):
                    name, _ = self._channels.topic(channel)
                    if name in infos:
                        data = message_bytes(bytes(body))
                        heapq.heappush(waiting, (recorded_ns, number, infos[name], data))
                        number += 1
            while waiting:
                recorded_ns, _, info, data = heapq.heappop(waiting)
                yield info, recorded_ns, data

    def deserialize(self, data: bytes, kind: str) -> Any:
        return self._typestore.deserialize_cdr(data, kind)

    def close(self) -> None:
        """Nothing stays open."""

    def _summary(self, file: BinaryIO) -> Iterator[tuple[int, memoryview]]:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError("no MCAP file")
        file.seek(-_FOOTER_BYTES, 2)
        end = file.tell()
        footer = file.read()
        kind, _ = HEAD.unpack_from(footer)
        (start,) = struct.unpack_from("<Q", footer, HEAD.size)
        if kind != FOOTER or not footer.endswith(MAGIC) or not 0 < start <= end:
            raise ValueError("no summary at the end of the file")
        file.seek(start)
        while file.tell() < end:
            kind, length = HEAD.unpack(file.read(HEAD.size))
            yield kind, memoryview(file.read(length))

    def _add_chunk(self, body: memoryview) -> None:
        start_ns, _, offset, _, length = _INDEX_HEAD.unpack_from(body)
        entries = body[_INDEX_HEAD.size : _INDEX_HEAD.size + length]
        channels = frozenset(channel for channel, _ in _CHANNEL_AT.iter_unpack(entries))
        self._starts_ns.append(start_ns)
        self._offsets.append(offset)
        self._sets.append(self._channel_sets.setdefault(channels, len(self._channel_sets)))

    def _wanted(self, topics: Collection[str]) -> Iterator[tuple[int, int]]:
        """Begin and place of the chunks that hold these topics, by their begin."""
        sets = [
            number
            for channels, number in self._channel_sets.items()
            if any(self._channels.topic(channel)[0] in topics for channel in channels)
        ]
        chosen = np.flatnonzero(np.isin(np.array(self._sets), sets))
        starts_ns = np.array(self._starts_ns)[chosen]
        offsets = np.array(self._offsets)[chosen]
        for place in np.lexsort((offsets, starts_ns)):
            yield int(starts_ns[place]), int(offsets[place])


def _statistics(body: memoryview) -> tuple[int, int, int, int, dict[int, int]]:
    """Messages, chunks, first and last time of recording, messages by channel."""
    messages, _, _, _, _, chunks, start_ns, end_ns, length = _STATISTICS_HEAD.unpack_from(body)
    entries = body[_STATISTICS_HEAD.size : _STATISTICS_HEAD.size + length]
    return messages, chunks, start_ns, end_ns, dict(_CHANNEL_AT.iter_unpack(entries))


def _chunk_messages(file: BinaryIO, offset: int) -> Iterator[tuple[int, int, memoryview]]:
    file.seek(offset)
    kind, length = HEAD.unpack(file.read(HEAD.size))
    if kind != CHUNK:
        raise ValueError(f"no chunk at byte {offset}, where the index says so")
    for inner, body in split_records(chunk_content(memoryview(file.read(length)))):
        if inner == MESSAGE:
            yield read_message(body)
