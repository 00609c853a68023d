"""The storage files of a rosbag2, whole or damaged: what can be read is, what cannot is noted."""

import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, TypeVar

import yaml

from mtc_perception.replay.recordings.mcap import MAGIC as MCAP_MAGIC
from mtc_perception.replay.recordings.mcap import McapFile
from mtc_perception.replay.recordings.recording import Notes, SourceError
from mtc_perception.replay.recordings.storage import (
    CDR,
    SQLITE_MAGIC,
    STORAGE_SUFFIXES,
    SalvagedSqlite,
    Storage,
    TopicInfo,
    WholeSqlite,
    message_bytes,
    ros_typestore,
    unpack_file,
)
from mtc_perception.util.files import open_regular, read_regular

METADATA = "metadata.yaml"
_PACKED = ".zstd"
_ARCHIVES = (
    (b"PK\3\4", "a zip file"),
    (b"\x1f\x8b", "packed by gzip"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd"),
    (b"BZh", "packed by bzip2"),
    (b"\xfd7zXZ", "packed by xz"),
)
_SAMPLES = 3
"""Messages by which a topic is known: the first one may be damaged."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """One message of a bag."""

    topic: str
    kind: str
    """Its type."""
    recorded_ns: int
    content: Any
    """None where it cannot be deserialised."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class BagSummary:
    """What a bag holds, over all its files."""

    topics: list[TopicInfo]
    """One for each name, type and serialisation."""
    duration_ns: int
    samples: dict[tuple[str, str], list[Message]] = field(default_factory=dict)
    """The first messages by topic and type, of the types that were asked for."""


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

    def summary(self, sampled: Collection[str] = ()) -> BagSummary:
        """Topics, duration, and the first messages of the types `sampled`.

        Raises SourceError if no file can be read.
        """
        found: dict[TopicInfo, int] = {}
        samples: dict[tuple[str, str], list[Message]] = {}
        spans: list[tuple[int, int]] = []

        def look(storage: Storage) -> Iterator[None]:
            for info in storage.topics:
                one = replace(info, count=0, schema=0)
                found[one] = found.get(one, 0) + info.count
            if any(info.count for info in storage.topics):
                spans.append((storage.start_ns, storage.end_ns))
            yield None  # whatever cannot be read from here on, the file can
            for name, kind in {(info.name, info.kind): None for info in storage.topics}:
                if kind in sampled:
                    first = samples.setdefault((name, kind), [])
                    some = _messages(storage, {name: (kind,)}, Notes())
                    first += islice(some, _SAMPLES - len(first))

        for _ in self._each(look, Notes()):
            pass
        starts, ends = zip(*spans, strict=True) if spans else ((0,), (0,))
        topics = [replace(info, count=count) for info, count in found.items()]
        return BagSummary(topics, max(ends) - min(starts), samples)

    def messages(self, topics: Mapping[str, Collection[str]], notes: Notes) -> Iterator[Message]:
        """Messages of these topics that are of these types, file by file.

        Raises SourceError if no file can be read.
        """
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
                try:
                    storage = self._open(file, notes)
                except SourceError as error:  # of a file that nobody has seen
                    raise SourceError(str(error).replace(str(file), str(packed))) from None
            else:
                storage = self._open(file, notes)
            stack.callback(storage.close)
            yield storage

    def _open(self, file: Path, notes: Notes) -> Storage:
        write_ahead = file.with_name(f"{file.name}-wal")
        if write_ahead.exists() and write_ahead.stat().st_size:
            notes.add("unfinished file", f"{write_ahead.name} holds messages that are not read")
        refuse_foreign(file)
        if _is_mcap(file):
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
            content = yaml.safe_load(read_regular(self.path / METADATA).decode())
            names = content["rosbag2_bagfile_information"]["relative_file_paths"]
            if not isinstance(names, list):
                raise TypeError(f"relative_file_paths is {names!r}, no list")
            listed = [self._as_it_is(self.path / PurePath(name).name) for name in names]
        except FileNotFoundError:
            self._notes.add("no metadata", f"{self.path.name} has no {METADATA}")
            return self._each_once(there)
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
            self._notes.add("damaged metadata", f"{self.path.name}: {_reason(error)}")
            return self._each_once(there)
        # Unlike Path's own, it takes a name that is none for one that is missing.
        found = [file for file in listed if os.path.isfile(file)]
        for file in listed:
            if file not in found:
                self._notes.add("missing file", f"{file.name}, which {METADATA} lists")
        # Whoever renames a file seldom edits the metadata.
        return self._each_once(found or there)

    def _as_it_is(self, file: Path) -> Path:
        """A listed file; where it was packed or unpacked since, what became of it."""
        other = file.with_name(f"{file.name}{_PACKED}")
        if file.suffix == _PACKED:
            other = file.with_suffix("")
        return other if other.is_file() and not file.is_file() else file

    def _each_once(self, files: Sequence[Path]) -> list[Path]:
        """The files; those that are there unpacked as well, as after playing them, once."""
        once: dict[str, Path] = {}
        for file in files:
            other = once.setdefault(file.name.removesuffix(_PACKED), file)
            if other != file:
                once[other.name.removesuffix(_PACKED)] = min(file, other)
                self._notes.add("file twice", f"{file.name} and {other.name}: one of them is read")
        return list(once.values())


def _messages(
    storage: Storage, topics: Mapping[str, Collection[str]], notes: Notes
) -> Iterator[Message]:
    for info, recorded_ns, data in storage.messages(topics, notes):
        if info.kind not in topics[info.name] or info.encoding != CDR:
            continue
        try:
            content, problem = storage.deserialize(message_bytes(data), info), ""
        except Exception as error:  # of whichever parser
            content, problem = None, f"{info.name}: {_reason(error)}"
        yield Message(info.name, info.kind, recorded_ns, content, problem)


def is_bag(path: Path) -> bool:
    """Whether `path` is a bag, or was meant to be one."""
    if path.is_dir():
        return (path / METADATA).is_file() or any(map(_is_storage, path.iterdir()))
    return _is_storage(path) or first_bytes(path).startswith((MCAP_MAGIC, SQLITE_MAGIC))


def refuse_foreign(path: Path) -> None:
    """Raises SourceError, saying what to do, where a file is what others take for a recording."""
    begin = first_bytes(path)
    if begin.startswith(b"#ROSBAG"):
        raise SourceError(ros_1_refusal(path))
    if packed := next((name for start, name in _ARCHIVES if begin.startswith(start)), None):
        raise SourceError(f"{path} is {packed}: unpack it first")


def ros_1_refusal(path: Path) -> str:
    """What to do with a recording of ROS 1."""
    return (
        f"{path} is a ROS 1 recording: convert it with "
        f"`rosbags-convert --src {path.name} --dst NEW`, of `pip install rosbags`"
    )


def first_bytes(path: Path) -> bytes:
    """As many as tell what a file is. Raises SourceError."""
    try:
        with open_regular(path) as file:
            return file.read(512)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None


def _is_mcap(file: Path) -> bool:
    """By its content or, where that is damaged, its name."""
    begin = first_bytes(file)
    return begin.startswith(MCAP_MAGIC) or (
        file.suffix == ".mcap" and not begin.startswith(SQLITE_MAGIC)
    )


def _is_storage(file: Path) -> bool:
    name = file.name.removesuffix(_PACKED)
    return name.endswith(STORAGE_SUFFIXES) and not name.startswith(".") and not file.is_dir()


def _numbers_by_value(file: Path) -> list[tuple[int, str]]:
    """Orders `bag_10` behind `bag_9`."""
    return [
        (int(part), "") if part.isdigit() else (-1, part)
        for part in re.split(r"(\d+)", file.name)
        if part
    ]


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
