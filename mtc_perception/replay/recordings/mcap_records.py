"""The records of MCAP files, as far as reading bags needs them: https://mcap.dev/spec."""

import struct
from collections.abc import Iterator
from typing import Any
from zlib import crc32

from lz4.frame import decompress as lz4_decompress
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from mtc_perception.replay.recordings.storage import unzstd

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
