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

import numpy as np
from rosbags.typesys.store import Typestore

from mtc_perception.replay.recordings.mcap_records import (
    CHUNK,
    CHUNK_INDEX,
    FOOTER,
    HEAD,
    MAGIC,
    MESSAGE,
    STATISTICS,
    Channels,
    chunk_content,
    read_message,
    split_records,
)
from mtc_perception.replay.recordings.mcap_scan import scan_messages
from mtc_perception.replay.recordings.notes import Notes
from mtc_perception.replay.recordings.storage import TopicInfo, message_bytes

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
