"""The storage files of a rosbag2, whole or damaged: what can be read is, what cannot is noted."""

import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, TypeVar

import yaml

from mtc_perception.replay.recordings.mcap import McapFile
from mtc_perception.replay.recordings.recording import Notes, SourceError
from mtc_perception.replay.recordings.storage import (
    STORAGE_SUFFIXES,
    SalvagedSqlite,
    Storage,
    TopicInfo,
    WholeSqlite,
    message_bytes,
    ros_typestore,
    unpack_file,
)

METADATA = "metadata.yaml"
_PACKED = ".zstd"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """One message of a bag."""

    topic: str
    recorded_ns: int
    content: Any
    """None where it cannot be deserialised."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class BagSummary:
    """What a bag holds, over all its files."""

    topics: dict[str, TopicInfo]
    duration_ns: int


class BagFiles:
    """The files of one bag, read one after the other."""

    def __init__(self, path: Path) -> None:
        """`path` is a bag's folder or one storage file. Raises SourceError if there is no file."""
        self.path = path
        self._notes = Notes()
        self.files = self._listed() if path.is_dir() else [path]
        if not self.files:
            raise SourceError(f"{path} holds no recording ({', '.join(STORAGE_SUFFIXES)})")
        self._typestore = ros_typestore()
        self._indexed: dict[Path, McapFile] = {}
        """MCAP files that were opened before: what takes time of that is to find their index."""

    def summary(self) -> BagSummary:
        """Topics and duration. Raises SourceError if no file can be read."""
        topics: dict[str, TopicInfo] = {}
        spans: list[tuple[int, int]] = []
        for storage in self._each(lambda storage: [storage], Notes()):
            for info in storage.topics:
                before = topics.get(info.name, TopicInfo(info.name, info.kind, 0))
                topics[info.name] = TopicInfo(info.name, before.kind, before.count + info.count)
            if any(info.count for info in storage.topics):
                spans.append((storage.start_ns, storage.end_ns))
        starts, ends = zip(*spans, strict=True) if spans else ((0,), (0,))
        return BagSummary(topics, max(ends) - min(starts))

    def messages(self, topics: Collection[str], notes: Notes) -> Iterator[Message]:
        """Messages of these topics, file by file. Raises SourceError if no file can be read."""
        return self._each(lambda storage: _messages(storage, topics, notes), notes)

    def _each(self, read: Callable[[Storage], Iterable[T]], notes: Notes) -> Iterator[T]:
        """What is read of each file, one after the other; what cannot be read is noted.

        Raises SourceError if that is all of them.
        """
        notes.add_all(self._notes)
        problems: list[str] = []
        for file in self.files:
            count = 0
            try:
                with self._opened(file, notes) as storage:
                    for item in read(storage):
                        yield item
                        count += 1
            except SourceError as error:
                problems.append(str(error))
            # A damaged file surfaces as whatever its parser happened to be doing, each with its
            # own family of errors.
            except Exception as error:
                if count:
                    notes.add("damaged file", f"{file.name}: {_reason(error)}, message {count}")
                else:
                    problems.append(f"{file} cannot be read as a rosbag2: {_reason(error)}")
        if len(problems) == len(self.files):
            raise SourceError(problems[0])
        for problem in problems:
            notes.add("unreadable file", problem)

    @contextmanager
    def _opened(self, file: Path, notes: Notes) -> Iterator[Storage]:
        with ExitStack() as stack:
            if file.suffix == _PACKED:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mtc_replay_"))
                packed, file = file, Path(folder) / file.stem
                try:
                    unpack_file(packed, file, notes)
                except OSError as error:
                    raise SourceError(f"{packed} cannot be decompressed: {error}") from None
            storage = self._open(file, notes)
            stack.callback(storage.close)
            yield storage

    def _open(self, file: Path, notes: Notes) -> Storage:
        write_ahead = file.with_name(f"{file.name}-wal")
        if write_ahead.exists() and write_ahead.stat().st_size:
            notes.add("unfinished file", f"{write_ahead.name} holds messages that are not read")
        if file.suffix == ".mcap":
            mcap = self._indexed.get(file) or McapFile(file, self._typestore)
            if file in self.files:  # not one unpacked for this once
                self._indexed[file] = mcap
            return mcap
        try:
            return WholeSqlite(file, self._typestore)
        except Exception:  # of rosbags, or of SQLite
            return SalvagedSqlite(file, self._typestore)

    def _listed(self) -> list[Path]:
        there = sorted(
            (file for file in self.path.iterdir() if _is_storage(file)), key=_numbers_by_value
        )
        try:
            content = yaml.safe_load((self.path / METADATA).read_text())
            names = content["rosbag2_bagfile_information"]["relative_file_paths"]
            listed = [self.path / PurePath(name).name for name in names]
        except FileNotFoundError:
            self._notes.add("no metadata", f"{self.path.name} has no {METADATA}")
            return there
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
            self._notes.add("damaged metadata", f"{self.path.name}: {_reason(error)}")
            return there
        for file in listed:
            if not file.is_file():
                self._notes.add("missing file", f"{file.name}, which {METADATA} lists")
        # Whoever renames a file seldom edits the metadata.
        return [file for file in listed if file.is_file()] or there


def _messages(storage: Storage, topics: Collection[str], notes: Notes) -> Iterator[Message]:
    for info, recorded_ns, data in storage.messages(topics, notes):
        try:
            content, problem = storage.deserialize(message_bytes(data), info.kind), ""
        except Exception as error:  # of whichever parser
            content, problem = None, f"{info.name}: {_reason(error)}"
        yield Message(info.name, recorded_ns, content, problem)


def is_bag(path: Path) -> bool:
    """Whether `path` is a bag, or was meant to be one."""
    if path.is_dir():
        return (path / METADATA).is_file() or any(map(_is_storage, path.iterdir()))
    return _is_storage(path)


def _is_storage(file: Path) -> bool:
    name = file.name.removesuffix(_PACKED)
    return name.endswith(STORAGE_SUFFIXES) and not name.startswith(".")


def _numbers_by_value(file: Path) -> list[tuple[int, str]]:
    """Orders `bag_10` behind `bag_9`."""
    return [
        (int(part), "") if part.isdigit() else (-1, part)
        for part in re.split(r"(\d+)", file.name)
        if part
    ]


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
