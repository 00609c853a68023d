"""Reads MCAP files without their index, as far as they go: for recordings that were cut off.

A recorder that dies leaves a file without its last chunk and without the summary that readers start
from; everything before is intact.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from rosbags.typesys.store import Typestore

from mtc_perception.replay.recordings.frames import SourceError
from mtc_perception.replay.recordings.mcap_records import (
    CHUNK,
    DATA_END,
    HEAD,
    MAGIC,
    MESSAGE,
    Channels,
    chunk_content,
    read_message,
    split_records,
)
from mtc_perception.replay.recordings.notes import Notes
from mtc_perception.replay.recordings.storage import TopicInfo, message_bytes


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
