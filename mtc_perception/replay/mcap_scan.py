"""Reads MCAP files without their index, as far as they go: for recordings that were cut off.

Format: https://mcap.dev/spec. A recorder that dies leaves a file without its last chunk and without
the summary that readers start from; everything before is intact.
"""

import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from lz4.frame import decompress as lz4_decompress
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from mtc_perception.replay.frames import SourceError
from mtc_perception.replay.notes import Notes
from mtc_perception.replay.storage import TopicInfo, unzstd

_MAGIC = b"\x89MCAP0\r\n"
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x03, 0x04, 0x05, 0x06, 0x0F
_HEAD = struct.Struct("<BQ")
_CHUNK_HEAD = struct.Struct("<QQQI")
_MESSAGE_HEAD = struct.Struct("<HIQQ")


class ScannedMcap:
    """An MCAP file read from its beginning to where it ends or breaks off."""

    def __init__(self, path: Path, typestore: Typestore, notes: Notes) -> None:
        """Reads the file once. Raises SourceError if it is no MCAP file or holds no message."""
        self.path = path
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self._channels: dict[int, tuple[str, str]] = {}
        counts: dict[int, int] = {}
        first_ns, last_ns = 2**63, -1
        for channel, recorded_ns, _ in self._scan(notes):
            counts[channel] = counts.get(channel, 0) + 1
            first_ns, last_ns = min(first_ns, recorded_ns), max(last_ns, recorded_ns)
        if not counts:
            raise SourceError(f"{path} is cut off before its first message")
        self.start_ns, self.end_ns = first_ns, last_ns
        self.topics = [
            TopicInfo(*self._channels[channel], count)
            for channel, count in counts.items()
            if channel in self._channels
        ]
        self._typestore = self._types(typestore)

    def messages(self, topics: Collection[str]) -> Iterator[tuple[TopicInfo, int, bytes]]:
        """Messages in the order of the file."""
        known = {info.name: info for info in self.topics if info.name in topics}
        for channel, recorded_ns, data in self._scan(Notes()):
            name, _ = self._channels.get(channel, ("", ""))
            if name in known:
                yield known[name], recorded_ns, bytes(data)

    def deserialize(self, data: bytes, kind: str) -> Any:
        return self._typestore.deserialize_cdr(data, kind)

    def close(self) -> None:
        """Nothing stays open."""

    def _scan(self, notes: Notes) -> Iterator[tuple[int, int, memoryview]]:
        """Channel, time and content of every message; learns schemas and channels on the way."""
        with self.path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise SourceError(f"{self.path} is no MCAP file")
            for kind, body in self._records(file, notes):
                if kind == _DATA_END:
                    return
                if kind != _CHUNK:
                    yield from self._learn(kind, body)
                    continue
                try:
                    content = _chunk_content(body)
                except Exception as error:  # each compression has errors of its own
                    notes.add("damaged chunk", f"{self.path.name}: {type(error).__name__}")
                    continue
                for inner, part in _split(content):
                    yield from self._learn(inner, part)

    def _records(self, file: BinaryIO, notes: Notes) -> Iterator[tuple[int, memoryview]]:
        size = self.path.stat().st_size
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            kind, length = _HEAD.unpack(head)
            if file.tell() + length > size:
                break
            yield kind, memoryview(file.read(length))
        notes.add("truncated file", f"{self.path.name} breaks off after {size} bytes")

    def _learn(self, kind: int, body: memoryview) -> Iterator[tuple[int, int, memoryview]]:
        if kind == _SCHEMA:
            number, rest = _number(body)
            name, rest = _text(rest)
            encoding, rest = _text(rest)
            definition, _ = _text(rest)
            self._schemas[number] = (name, encoding, definition)
        elif kind == _CHANNEL:
            number, rest = _number(body)
            schema, rest = _number(rest)
            topic, _ = _text(rest)
            self._channels[number] = (topic, self._schemas.get(schema, ("", "", ""))[0])
        elif kind == _MESSAGE:
            channel, _, recorded_ns, _ = _MESSAGE_HEAD.unpack_from(body)
            yield channel, recorded_ns, body[_MESSAGE_HEAD.size :]

    def _types(self, default: Typestore) -> Typestore:
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


def _chunk_content(body: memoryview) -> memoryview:
    _, _, size, _ = _CHUNK_HEAD.unpack_from(body)
    compression, rest = _text(body[_CHUNK_HEAD.size :])
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
        raise ValueError("wrong size")
    return memoryview(content)


def _split(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    position = 0
    while position + _HEAD.size <= len(content):
        kind, length = _HEAD.unpack_from(content, position)
        position += _HEAD.size
        yield kind, content[position : position + length]
        position += length


def _number(body: memoryview) -> tuple[int, memoryview]:
    return struct.unpack_from("<H", body)[0], body[2:]


def _text(body: memoryview) -> tuple[str, memoryview]:
    (length,) = struct.unpack_from("<I", body)
    return bytes(body[4 : 4 + length]).decode(errors="replace"), body[4 + length :]
