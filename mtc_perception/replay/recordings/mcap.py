"""MCAP files (https://mcap.dev/spec), whole or cut off, with a few bytes of memory per chunk.

A whole file has an index of its chunks at its end. A recorder that dies leaves a file without one:
it is made anew by stepping from chunk to chunk, since behind each stands which messages are in it.

rosbags reads whole files as well, with some kilobytes per chunk: in an hour of raw images that is
more than everything else together. Messages come in the same order, that of their times of
recording.
"""

import heapq
import os
import struct
import sys
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np
from lz4.frame import LZ4FrameDecompressor
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from mtc_perception.replay.recordings.recording import Notes, SourceError
from mtc_perception.replay.recordings.storage import (
    CDR,
    TopicInfo,
    check_unpacked_size,
    unzstd,
)

MAGIC = b"\x89MCAP0\r\n"
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK = 0x02, 0x03, 0x04, 0x05, 0x06
MESSAGE_INDEX, CHUNK_INDEX, STATISTICS, DATA_END = 0x07, 0x08, 0x0B, 0x0F
HEAD = struct.Struct("<BQ")
"""Kind of a record, and the length of its body."""
_CHUNK_HEAD = struct.Struct("<QQQI")
_MESSAGE_HEAD = struct.Struct("<HIQQ")
_MESSAGE_INDEX_HEAD = struct.Struct("<HI")
_CHUNK_INDEX_HEAD = struct.Struct("<QQQQI")
_STATISTICS_HEAD = struct.Struct("<QHIIIIQQI")
_CHANNEL_AT = struct.Struct("<HQ")
_FOOTER_BODY = struct.Struct("<QQI")
_TIME_AND_PLACE_BYTES = 16
_FOOTER_BYTES = HEAD.size + _FOOTER_BODY.size + len(MAGIC)


class McapFile:
    """One MCAP file."""

    def __init__(self, path: Path, typestore: Typestore) -> None:
        """`typestore` is for files that define no types.

        Raises SourceError if it is no MCAP file, or one that ends before its first message.
        """
        self.path = path
        self._notes = Notes()
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise SourceError(f"{path} cannot be read as a rosbag2: it is no MCAP file")
            try:
                self._index = _read_index(file)
            except Exception:  # a damaged record fails in any way
                self._index = _made_index(file, path, self._notes)
        self.start_ns, self.end_ns = self._index.start_ns, self._index.end_ns
        self._topics = {
            channel: self._index.channels.topic(channel, count)
            for channel, count in self._index.counts.items()
        }
        self.topics = list(self._topics.values())
        self._default = typestore

    def messages(
        self, topics: Collection[str], notes: Notes
    ) -> Iterator[tuple[TopicInfo, int, bytes]]:
        """Messages by time of recording; of equal ones, in the order of the file.

        Notes where the file breaks off, and damaged chunks. Raises SourceError if all chunks with
        these topics are damaged.
        """
        notes.add_all(self._notes)
        self._index.channels.check(self._default, notes)
        infos = {channel: info for channel, info in self._topics.items() if info.name in topics}
        waiting: list[tuple[int, int, TopicInfo, bytes]] = []
        number = damaged = 0
        with self.path.open("rb") as file:
            for start_ns, offset in self._index.places(infos):
                while waiting and waiting[0][0] < start_ns:
                    recorded_ns, _, info, data = heapq.heappop(waiting)
                    yield info, recorded_ns, data
                try:
                    for channel, recorded_ns, data in _messages_at(file, offset, infos):
                        heapq.heappush(waiting, (recorded_ns, number, infos[channel], data))
                        number += 1
                except Exception as error:  # each compression has errors of its own
                    damaged += 1
                    notes.add("damaged chunk", f"{self.path.name}, byte {offset}: {error}")
            while waiting:
                recorded_ns, _, info, data = heapq.heappop(waiting)
                yield info, recorded_ns, data
        if damaged and not number:
            raise SourceError(f"{self.path} cannot be read as a rosbag2: its chunks are damaged")

    def deserialize(self, data: bytes, info: TopicInfo) -> Any:
        store = self._index.channels.typestore(info.schema, self._default)
        return store.deserialize_cdr(data, info.kind)

    def close(self) -> None:
        """The file can be read again: nothing but its index is kept."""


class Channels:
    """The channels and schemas of a file, learned from its records."""

    def __init__(self) -> None:
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self._topics: dict[int, tuple[str, int, str]] = {}

    def learn(self, kind: int, body: memoryview) -> None:
        """Take in a record, if it is of a kind that matters here."""
        if kind == SCHEMA:
            number, rest = _number(body)
            name, rest = text(rest)
            encoding, rest = text(rest)
            definition, _ = text(rest)
            # One text for all files of a bag.
            self._schemas[number] = (name, encoding, sys.intern(definition))
        elif kind == CHANNEL:
            number, rest = _number(body)
            schema, rest = _number(rest)
            topic, rest = text(rest)
            encoding, _ = text(rest)
            self._topics[number] = (topic, schema, encoding)

    def __contains__(self, channel: int) -> bool:
        return channel in self._topics

    def topic(self, channel: int, count: int) -> TopicInfo:
        """The topic of a channel with so many messages; empty where no record tells."""
        name, schema, encoding = self._topics.get(channel, ("", 0, CDR))
        kind, _, _ = self._schemas.get(schema, ("", "", ""))
        return TopicInfo(name, kind, count, encoding, schema)

    def typestore(self, schema: int, default: Typestore) -> Typestore:
        """The type that a schema defines; of `default` what is not defined there.

        Raises the errors of rosbags where it cannot be parsed, and is no type of `default`.
        """
        kind, encoding, definition = self._schemas.get(schema, ("", "", ""))
        try:
            return _typestore(kind, encoding, definition, default)
        except Exception:  # the parser's, and what the parser stumbles over
            if kind in default.fielddefs:
                return default
            raise

    def check(self, default: Typestore, notes: Notes) -> None:
        """Note the topics whose types cannot be parsed."""
        for topic, schema, message_encoding in self._topics.values():
            kind, encoding, definition = self._schemas.get(schema, ("", "", ""))
            if message_encoding != CDR:
                continue
            try:
                _typestore(kind, encoding, definition, default)
            except Exception as error:
                reason = " ".join(str(error).split())[:100]
                notes.add("unreadable definition", f"{topic} ({kind}): {reason}")


@lru_cache(maxsize=256)
def _typestore(kind: str, encoding: str, definition: str, default: Typestore) -> Typestore:
    """What a schema defines, over the types of `default`. Raises the errors of rosbags."""
    # A recorder that does not find a definition writes an empty one.
    if kind in default.fielddefs and not definition.strip():
        return default
    if encoding == "ros2msg":
        types = get_types_from_msg(definition, kind)
    elif encoding in ("ros2idl", "omgidl"):
        types = get_types_from_idl(definition)
    else:
        return default
    if all(default.fielddefs.get(name) == fields for name, fields in types.items()):
        return default
    store = get_typestore(Stores.EMPTY)
    store.register({**default.fielddefs, **types})
    return store


class _Index:
    """What a file holds, and where: chunks, and messages that are in none."""

    def __init__(self) -> None:
        self.channels = Channels()
        self.counts: dict[int, int] = {}
        """Messages by channel."""
        self.start_ns, self.end_ns = 2**63, 0
        self._starts_ns, self._offsets = array("Q"), array("Q")
        self._sets = array("H")
        self._channel_sets: dict[frozenset[int], int] = {}

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, start_ns: int, end_ns: int, offset: int, counts: Mapping[int, int]) -> None:
        """A chunk or a message: first and last time, place, and messages by channel."""
        self.start_ns, self.end_ns = min(self.start_ns, start_ns), max(self.end_ns, end_ns)
        for channel, count in counts.items():
            self.counts[channel] = self.counts.get(channel, 0) + count
        self.add_place(start_ns, offset, counts)

    def add_place(self, start_ns: int, offset: int, channels: Iterable[int]) -> None:
        """No `channels` where it is unknown which a chunk has."""
        self._starts_ns.append(start_ns)
        self._offsets.append(offset)
        one = frozenset(channels)
        self._sets.append(self._channel_sets.setdefault(one, len(self._channel_sets)))

    def places(self, channels: Collection[int]) -> Iterator[tuple[int, int]]:
        """First time and byte of what holds, or may hold, these channels, by first time."""
        sets = [
            number
            for there, number in self._channel_sets.items()
            if not there or not there.isdisjoint(channels)
        ]
        chosen = np.flatnonzero(np.isin(np.array(self._sets), sets))
        starts_ns = np.array(self._starts_ns)[chosen]
        offsets = np.array(self._offsets)[chosen]
        for place in np.lexsort((offsets, starts_ns)):
            yield int(starts_ns[place]), int(offsets[place])


def _read_index(file: BinaryIO) -> _Index:
    """The index at the end of a whole file.

    Raises ValueError, or the errors of struct, where there is none or it is not complete: rosbag2's
    preset `fastwrite` writes no chunks, and so no index of them.
    """
    end = file.seek(-_FOOTER_BYTES, 2)
    footer = file.read()
    start, _, checksum = _FOOTER_BODY.unpack_from(footer, HEAD.size)
    if footer[0] != FOOTER or not footer.endswith(MAGIC) or not 0 < start <= end:
        raise ValueError("no summary at the end of the file")
    file.seek(start)
    summary = memoryview(file.read(end - start))
    # The checksum covers all of the footer but itself.
    if checksum and crc32(footer[: HEAD.size + 16], crc32(summary)) != checksum:
        raise ValueError("the summary's checksum is wrong")
    index = _Index()
    messages = chunks = 0
    for kind, body in split_records(summary):
        index.channels.learn(kind, body)
        if kind == CHUNK_INDEX:
            start_ns, _, offset, _, length = _CHUNK_INDEX_HEAD.unpack_from(body)
            entries = body[_CHUNK_INDEX_HEAD.size : _CHUNK_INDEX_HEAD.size + length]
            channels = [channel for channel, _ in _CHANNEL_AT.iter_unpack(entries)]
            index.add_place(start_ns, offset, channels)
        elif kind == STATISTICS:
            messages, _, _, _, _, chunks, index.start_ns, index.end_ns, length = (
                _STATISTICS_HEAD.unpack_from(body)
            )
            entries = body[_STATISTICS_HEAD.size : _STATISTICS_HEAD.size + length]
            index.counts = dict(_CHANNEL_AT.iter_unpack(entries))
    complete = chunks == len(index) and messages == sum(index.counts.values())
    if not complete or (messages and not chunks):
        raise ValueError("the index is not complete")
    return index


def _made_index(file: BinaryIO, path: Path, notes: Notes) -> _Index:
    """An index of what is there of a file, from its beginning to where it ends or breaks off.

    Chunks are stepped over where the message indices behind them tell all. Raises SourceError if
    there is no message.
    """
    maker = _IndexMaker(file, path.name, notes)
    for kind, offset, length in _record_places(file, path.name, notes):
        try:
            maker.add(kind, offset, length)
        except struct.error as error:
            notes.add("damaged record", f"{path.name}, byte {offset}: {error}")
    maker.add_chunk({})  # at the very end some of its message indices may be missing
    if not maker.index.counts:
        raise SourceError(f"{path} cannot be read as a rosbag2: no message is left of it")
    return maker.index


class _IndexMaker:
    """Takes the records of a file in their order: behind a chunk come its message indices."""

    def __init__(self, file: BinaryIO, name: str, notes: Notes) -> None:
        self.index = _Index()
        self._file, self._name, self._notes = file, name, notes
        self._chunk: tuple[int, int, int] | None = None
        """First and last time, and place, of the chunk that is not added yet."""
        self._counts: dict[int, int] = {}
        """Messages by channel, as its message indices have it so far."""

    def add(self, kind: int, offset: int, length: int) -> None:
        """A record, and the length of its body. Raises struct.error where it is damaged."""
        if kind != MESSAGE_INDEX:
            self.add_chunk(self._counts)
        self._file.seek(offset + HEAD.size)
        if kind == MESSAGE_INDEX:
            channel, size = _MESSAGE_INDEX_HEAD.unpack(self._file.read(_MESSAGE_INDEX_HEAD.size))
            if size:
                self._counts[channel] = size // _TIME_AND_PLACE_BYTES
        elif kind == CHUNK:
            start_ns, end_ns, _, _ = _CHUNK_HEAD.unpack(self._file.read(_CHUNK_HEAD.size))
            self._chunk = start_ns, end_ns, offset
        elif kind == MESSAGE:
            channel, _, time_ns, _ = _MESSAGE_HEAD.unpack(self._file.read(_MESSAGE_HEAD.size))
            self.index.add(time_ns, time_ns, offset, {channel: 1})
        elif kind in (SCHEMA, CHANNEL):
            self.index.channels.learn(kind, memoryview(self._file.read(length)))

    def add_chunk(self, counts: Mapping[int, int]) -> None:
        """The last chunk, if there is one; it is read itself where `counts` do not tell all."""
        chunk, self._chunk, self._counts = self._chunk, None, {}
        if chunk is None:
            return
        *_, offset = chunk
        try:
            if not counts or any(channel not in self.index.channels for channel in counts):
                counts = _learn_chunk(self._file, offset, self.index.channels)
        except Exception as error:  # each compression has errors of its own
            self._notes.add("damaged chunk", f"{self._name}, byte {offset}: {error}")
        else:
            if counts:
                self.index.add(*chunk, counts)


def _record_places(file: BinaryIO, name: str, notes: Notes) -> Iterator[tuple[int, int, int]]:
    """Kind, place and length of body of every record.

    Ends behind DATA_END, or with a note where the file breaks off.
    """
    size, offset = os.fstat(file.fileno()).st_size, len(MAGIC)
    while offset + HEAD.size <= size:
        file.seek(offset)
        kind, length = HEAD.unpack(file.read(HEAD.size))
        if offset + HEAD.size + length > size:
            break
        yield kind, offset, length
        if kind == DATA_END:
            return
        offset += HEAD.size + length
    notes.add("truncated file", f"{name} breaks off after {size} bytes")


def _learn_chunk(file: BinaryIO, offset: int, channels: Channels) -> dict[int, int]:
    """Messages by channel in the chunk at `offset`; `channels` learns what it says of them."""
    counts: dict[int, int] = {}
    _, body = _record_at(file, offset)
    for kind, part in split_records(chunk_content(body)):
        channels.learn(kind, part)
        if kind == MESSAGE:
            channel, _, _ = read_message(part)
            counts[channel] = counts.get(channel, 0) + 1
    return counts


def _messages_at(
    file: BinaryIO, offset: int, channels: Collection[int]
) -> Iterator[tuple[int, int, bytes]]:
    """Channel, time of recording and content of the messages at `offset`, of these channels.

    There is a chunk or a message. Raises ValueError, or the errors of struct and of compressions,
    where it is damaged.
    """
    kind, body = _record_at(file, offset)
    if kind not in (CHUNK, MESSAGE):
        raise ValueError("no chunk, where the index says so")
    records = split_records(chunk_content(body)) if kind == CHUNK else [(kind, body)]
    for inner, part in records:
        if inner == MESSAGE:
            channel, recorded_ns, content = read_message(part)
            if channel in channels:
                yield channel, recorded_ns, bytes(content)


def _record_at(file: BinaryIO, offset: int) -> tuple[int, memoryview]:
    """Kind and body of the record at `offset`."""
    size = os.fstat(file.fileno()).st_size
    file.seek(offset)
    kind, length = HEAD.unpack(file.read(HEAD.size))
    if offset + HEAD.size + length > size:
        raise ValueError("a record beyond the end of the file")
    return kind, memoryview(file.read(length))


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
    if compression:
        check_unpacked_size(size)
    if compression == "zstd":
        content = unzstd(packed, size)
    elif compression == "lz4":
        # One byte more, or it would not be seen that there is more.
        content = LZ4FrameDecompressor().decompress(packed, max_length=size + 1)
    elif compression == "":
        content = packed
    else:
        raise ValueError(f"compression {compression}")
    if len(content) != size:
        raise ValueError("another size than it says")
    if checksum and crc32(content) != checksum:
        raise ValueError("the checksum is wrong")
    return memoryview(content)


def split_records(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Kind and body of the records that follow each other in `content`. Raises ValueError."""
    position = 0
    while position + HEAD.size <= len(content):
        kind, length = HEAD.unpack_from(content, position)
        position += HEAD.size
        if position + length > len(content):
            raise ValueError("a record beyond the end of its chunk")
        yield kind, content[position : position + length]
        position += length


def text(body: memoryview) -> tuple[str, memoryview]:
    """A string at the beginning of `body`, and what is behind it."""
    (length,) = struct.unpack_from("<I", body)
    return bytes(body[4 : 4 + length]).decode(errors="replace"), body[4 + length :]


def _number(body: memoryview) -> tuple[int, memoryview]:
    return struct.unpack_from("<H", body)[0], body[2:]
