"""One storage file of a rosbag2, read without a ROS installation; here those of sqlite3."""

import shutil
import sqlite3
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from mtc_perception.replay.recordings.recording import Notes, SourceError
from mtc_perception.util.files import open_regular

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STORAGE_SUFFIXES = (".mcap", ".db3")
SQLITE_MAGIC = b"SQLite format 3\0"
MOST_UNPACKED_BYTES = 512 * 2**20
"""Of a message or a chunk, which are held in memory whole: twice the largest camera's image."""
_LEFT_FREE_BYTES = 64 * 2**20
"""Of the disk that a file is unpacked to; others write there, too."""
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


CDR = "cdr"
"""How ROS 2 serialises messages."""


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """The messages of one topic and one type in one file."""

    name: str
    kind: str
    """Message type."""
    count: int
    encoding: str = CDR
    """How messages are serialised."""
    schema: int = 0
    """Number of the type's definition, in a file that numbers them."""


class Storage(Protocol):
    """An open storage file."""

    path: Path
    topics: list[TopicInfo]
    start_ns: int
    end_ns: int
    """Recording times of the first and last message."""

    def messages(
        self, topics: Collection[str], notes: Notes
    ) -> Iterator[tuple[TopicInfo, int, bytes]]:
        """Topic, recording time in ns and stored content of each message of these topics.

        Damage is noted and read around. Raises SourceError, or the errors of its parser, where
        that cannot be done.
        """

    def deserialize(self, data: bytes, info: TopicInfo) -> Any:
        """The message, of what it was serialised to; raises the errors of its parser."""

    def close(self) -> None: ...


class WholeSqlite:
    """A whole file, read by rosbags in the order of recording."""

    def __init__(self, path: Path, typestore: Typestore) -> None:
        """`typestore` is for files that define no types. Raises the errors of rosbags."""
        self.path = path
        self._reader = AnyReader([path], default_typestore=typestore)
        self._reader.open()
        self.topics = [TopicInfo(c.topic, c.msgtype, c.msgcount) for c in self._reader.connections]
        self.start_ns, self.end_ns = self._reader.start_time, self._reader.end_time - 1

    def messages(
        self, topics: Collection[str], notes: Notes
    ) -> Iterator[tuple[TopicInfo, int, bytes]]:
        wanted = [c for c in self._reader.connections if c.topic in topics]
        if not wanted:
            return  # no connections would mean all of them
        infos = {c.id: TopicInfo(c.topic, c.msgtype, c.msgcount) for c in wanted}
        for connection, recorded_ns, data in self._reader.messages(wanted):
            yield infos[connection.id], recorded_ns, data

    def deserialize(self, data: bytes, info: TopicInfo) -> Any:
        return self._reader.deserialize(data, info.kind)

    def close(self) -> None:
        self._reader.close()


class SalvagedSqlite:
    """A damaged sqlite3 file, read message by message until the damage."""

    def __init__(self, path: Path, typestore: Typestore) -> None:
        """Raises SourceError if no message can be read."""
        self.path, self._typestore = path, typestore
        try:
            self._database = sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)
            # Without this SQLite refuses every file that is shorter than its header says.
            self._database.execute("PRAGMA writable_schema = ON")
            columns = "id, name, type, serialization_format"
            rows = self._database.execute(f"SELECT {columns} FROM topics").fetchall()
        except sqlite3.Error as error:
            raise SourceError(f"{path} cannot be read as a rosbag2: {error}") from None
        known = {number for number, *_ in rows}
        counts: dict[int, int] = {}
        first_ns, last_ns = 2**63, -1
        for number, recorded_ns, _ in self._rows("length(data)", Notes()):
            if number not in known:
                continue
            counts[number] = counts.get(number, 0) + 1
            first_ns, last_ns = min(first_ns, recorded_ns), max(last_ns, recorded_ns)
        if not counts:
            self.close()
            raise SourceError(f"{path} cannot be read as a rosbag2: no message is left of it")
        self.start_ns, self.end_ns = first_ns, last_ns
        self._infos = {
            number: TopicInfo(name, kind, counts[number], encoding)
            for number, name, kind, encoding in rows
            if number in counts
        }
        self.topics = list(self._infos.values())

    def messages(
        self, topics: Collection[str], notes: Notes
    ) -> Iterator[tuple[TopicInfo, int, bytes]]:
        for number, recorded_ns, data in self._rows("data", notes):
            info = self._infos.get(number)
            if info is not None and info.name in topics:
                yield info, recorded_ns, data

    def deserialize(self, data: bytes, info: TopicInfo) -> Any:
        return self._typestore.deserialize_cdr(data, info.kind)

    def close(self) -> None:
        self._database.close()

    def _rows(self, column: str, notes: Notes) -> Iterator[tuple[int, int, Any]]:
        # By key, the order of recording, so that everything before the damage is found.
        query = f"SELECT topic_id, timestamp, {column} FROM messages ORDER BY id"
        rows = 0
        try:
            for number, recorded_ns, value in self._database.execute(query):
                yield number, recorded_ns, value
                rows += 1
        except sqlite3.Error as error:
            notes.add("truncated file", f"{self.path.name}: {error} after {rows} messages")


def message_bytes(data: bytes) -> bytes:
    """A serialised message as it was before rosbag2 compressed it, if it did.

    Raises ValueError for one that would take too much memory, or zstd's own error.
    """
    # Every serialised message begins with its byte order, 0 or 1 after a 0.
    if data[:4] != _ZSTD_MAGIC:
        return data
    decompressor = zstd.ZstdDecompressor()
    message = bytes(decompressor.decompress(data, MOST_UNPACKED_BYTES))
    if not decompressor.eof:
        if len(message) < MOST_UNPACKED_BYTES:
            raise ValueError("the compressed message is cut off")
        check_unpacked_size(MOST_UNPACKED_BYTES + 1)
    return message


def check_unpacked_size(size: int) -> None:
    """Raise ValueError if `size` bytes are more than a message or a chunk may take of memory."""
    if size > MOST_UNPACKED_BYTES:
        most = MOST_UNPACKED_BYTES >> 20
        raise ValueError(f"unpacks to more than {most} MiB, the most that is held in memory")


def unzstd(data: memoryview, size: int) -> bytes:
    """The first `size` bytes of what `data` holds, fewer if there are. Raises zstd's own error."""
    # Told the size, it takes memory once instead of piece by piece: half the time for images.
    return bytes(zstd.ZstdDecompressor().decompress(data, size))


def unpack_file(packed: Path, target: Path, notes: Notes) -> None:
    """Write what `packed` (zstd) holds, as far as it goes, to `target`.

    Raises OSError, and SourceError before the disk is full.
    """
    with target.open("wb") as out, open_regular(packed) as file, zstd.open(file) as content:
        try:
            while block := content.read(1 << 20):
                if shutil.disk_usage(target.parent).free < len(block) + _LEFT_FREE_BYTES:
                    raise SourceError(
                        f"{packed} unpacks to more than fits into {target.parent.parent}: free some"
                        " space there, or name a folder on a larger disk with TMPDIR"
                    )
                out.write(block)
        except (EOFError, zstd.ZstdError) as error:
            if not out.tell():
                raise SourceError(f"{packed} cannot be decompressed: {error}") from None
            notes.add("truncated file", f"{packed.name}: {' '.join(str(error).split())}")


VISION_MSGS: dict[str, str] = {
    "Point2D": "float64 x\nfloat64 y",
    "Pose2D": "Point2D position\nfloat64 theta",
    "BoundingBox2D": "Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "ObjectHypothesis": "string class_id\nfloat64 score",
    "ObjectHypothesisWithPose": (
        "ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose"
    ),
    "Detection2D": (
        "std_msgs/Header header\nObjectHypothesisWithPose[] results\nBoundingBox2D bbox\nstring id"
    ),
    "Detection2DArray": "std_msgs/Header header\nDetection2D[] detections",
    "VisionClass": "uint16 class_id\nstring class_name",
    "LabelInfo": "std_msgs/Header header\nVisionClass[] class_map\nfloat32 threshold",
    "VisionInfo": (
        "std_msgs/Header header\nstring method\nstring database_location\nint32 database_version"
    ),
}
"""Definitions of vision_msgs 4.1, the same as in `interfaces/vision_msgs`."""


def ros_typestore() -> Typestore:
    """The ROS 2 Humble message types (unchanged for ours up to Kilted) and vision_msgs."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    for name, definition in VISION_MSGS.items():
        store.register(get_types_from_msg(definition, f"vision_msgs/msg/{name}"))
    return store
