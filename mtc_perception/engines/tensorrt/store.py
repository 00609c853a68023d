"""Built TensorRT engines on disk, each under a key of everything that changes the binary.

Two files per engine in one folder: the serialised engine and its record, JSON with the key, the
engine's sha256 and how it was built. The record is written last and names the engine's file, so
an engine without a valid record does not exist.
"""

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, ValidationError

from mtc_perception.core.bundle import Sha256, sha256_hex
from mtc_perception.engines.tensorrt.key import EngineKey, build_command
from mtc_perception.util.errors import EngineError
from mtc_perception.util.files import open_regular, write_bytes_atomic, write_text_atomic
from mtc_perception.util.private import cache_folder, make_private, why_not_private
from mtc_perception.util.strict import Strict

_PREFIX = "mtc-"
_LOCK = ".lock"
_SCHEMA_VERSION: Final = 2
_BEGUN = (f".{_PREFIX}*", ".timings-*")
"""Names of files until they are complete: engines, records, and TensorRT's kernel timings."""
_LEFTOVER_AGE_S = 3600.0
"""What nobody has written to, or moved, for so long was left by a process that was killed. Younger
files may belong to a store that is being copied here: an engine comes before its record."""


@dataclass(frozen=True)
class StoredEngine:
    """An engine in a store, as its record says."""

    key: EngineKey
    path: Path
    """The serialised engine."""
    sha256: str
    size_bytes: int
    about: Mapping[str, Any]
    """How it was built: what `EngineStore.put` was given."""
    record_path: Path


class _Record(Strict):
    schema_version: Literal[2] = _SCHEMA_VERSION
    key: EngineKey
    engine: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    sha256: Sha256
    size_bytes: int
    about: dict[str, Any]


def default_root() -> Path:
    """`$MTC_ENGINE_CACHE`, or `engines` in the user's cache.

    Raises EngineError for a user without a home folder.
    """
    if named := os.environ.get("MTC_ENGINE_CACHE"):
        return Path(named)
    cache = cache_folder()
    if cache is None:
        raise EngineError("there is no home folder to keep engines in: set MTC_ENGINE_CACHE")
    return cache / "engines"


class EngineStore:
    """The engines under one folder. Several processes may use it at once."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_root()

    def put(self, key: EngineKey, engine: bytes, about: Mapping[str, Any]) -> Path:
        """Keep `engine`, in place of an older one of the same key; returns the engine's path.

        `about` is what else is worth knowing (seconds, command), as JSON holds it. Interrupted, it
        leaves the store as it was. Raises EngineError if the folder cannot be written, or if others
        may write to it.
        """
        sha256 = sha256_hex(engine)
        # Another name for other bytes: whoever reads the old record still finds the old engine.
        path = self.root / f"{_PREFIX}{key.stem}.{sha256[:12]}.engine"
        record = _Record(
            key=key,
            engine=path.name,
            sha256=sha256,
            size_bytes=len(engine),
            about=dict(about),
        )
        text = json.dumps(record.model_dump(mode="json"), indent=2) + "\n"
        record_path = self.root / f"{_PREFIX}{key.stem}.json"
        self.check_writable()
        with self._disk_errors(), self._writing():
            former = _read_record(record_path)
            write_bytes_atomic(path, engine, durable=True, private=True)
            write_text_atomic(record_path, text, durable=True, private=True)
            self._sweep({former.path.name} if former else set())
        return path

    def check_writable(self) -> None:
        """Make the folder, and raise EngineError, as `put` does, where no file can be made in it;
        leaves none."""
        with self._disk_errors():
            make_private(self.root)
            self.check_private()
            tempfile.TemporaryFile(dir=self.root).close()

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise EngineError(f"{self.root}: cannot keep the engine: {error.strerror}") from error

    def check_private(self) -> None:
        """Raise EngineError if others may put engines into the folder: they are programs."""
        with suppress(FileNotFoundError):
            if reason := why_not_private(self.root):
                raise EngineError(f"no engine is taken from a folder of others: {reason}")

    def find(
        self,
        wanted: EngineKey,
        bundle: str = "BUNDLE",
        note: Callable[[str], None] = lambda _damage: None,
    ) -> bytes:
        """The serialised engine for `wanted`, which describes this machine.

        One built on this GPU comes before one built ahead of time, a sound one before a damaged
        one, and what was built under this driver before what was built under another; `note` is
        told of each that is damaged. Raises EngineError if none is left, with what
        is wrong with the nearest one and the command that builds it from the bundle at path
        `bundle`.
        """
        self.check_private()
        with self._unchanging():
            entries = self.entries()
            fitting = [entry for entry in entries if not entry.key.differences(wanted)]
            damages: list[str] = []
            for entry in sorted(fitting, key=lambda entry: _distance(entry.key, wanted)):
                try:
                    return self.read(entry)
                except EngineError as error:
                    damages.append(str(error))
                    note(str(error))
            reason = "; ".join(damages) or self._nothing_fits(entries, wanted)
        again = " again" if damages else ""
        raise EngineError(f"{reason}; build it{again}: {build_command(wanted, bundle)}")

    def read(self, entry: StoredEngine) -> bytes:
        """The serialised engine of `entry`.

        Raises EngineError if it is damaged or gone, or if others may have written it.
        """
        self.check_private()
        try:
            for path in (entry.record_path, entry.path):
                if reason := why_not_private(path):
                    raise EngineError(f"no engine is taken that others may have made: {reason}")
            with open_regular(entry.path) as file:
                engine = file.read()
        except OSError as error:
            raise EngineError(f"{entry.path}: cannot be read: {error.strerror}") from error
        if sha256_hex(engine) != entry.sha256:
            raise EngineError(f"{entry.path}: is damaged, its sha256 is not its record's")
        return engine

    def entries(self) -> list[StoredEngine]:
        """Every engine with a readable record, by name."""
        found = (_read_record(path) for path in self._record_paths())
        return [entry for entry in found if entry is not None]

    def outdated(self) -> list[Path]:
        """Records that nothing will ever read again: of older versions of the store, or damaged."""
        return [path for path in self._unreadable() if _is_outdated(path)]

    def remove(self, entries: Iterable[StoredEngine], outdated: Iterable[Path] = ()) -> int:
        """Take `entries`, the engines of `outdated` records, and what killed processes left an hour
        ago, out of the store; returns the bytes that it is smaller by.

        Raises EngineError if the folder cannot be written.
        """
        if not self.root.is_dir():
            return 0
        try:
            with self._writing():
                names = set()
                for entry in entries:
                    names.add(entry.path.name)
                    entry.record_path.unlink(missing_ok=True)
                for record in outdated:
                    names.update(path.name for path in self.root.glob(f"{record.stem}.*engine"))
                    record.unlink(missing_ok=True)
                return self._sweep(names)
        except OSError as error:
            raise EngineError(f"{self.root}: cannot remove: {error.strerror}") from error

    def _record_paths(self) -> list[Path]:
        return sorted(self.root.glob(f"{_PREFIX}*.json"))

    def _unreadable(self) -> list[Path]:
        return [path for path in self._record_paths() if _read_record(path) is None]

    def _sweep(self, at_once: Collection[str]) -> int:
        """Remove engines that no record names, and files begun by processes that were killed.

        Those called as in `at_once` now, others when they have long been lying here. Returns their
        bytes.
        """
        freed_bytes = 0
        named = {entry.path.name for entry in self.entries()}
        # A newer version may have written these, and can read them.
        kept = tuple(f"{path.stem}." for path in self._unreadable())
        unnamed = [
            path
            for path in self.root.glob(f"{_PREFIX}*.engine")
            if path.name not in named and not path.name.startswith(kept)
        ]
        begun = [path for name in _BEGUN for path in self.root.glob(name)]
        for path in (*unnamed, *begun):
            if path.name in at_once or _is_leftover(path):
                with suppress(FileNotFoundError):  # somebody else was faster
                    size_bytes = path.stat().st_size
                    path.unlink()
                    freed_bytes += size_bytes
        return freed_bytes

    def _nothing_fits(self, entries: list[StoredEngine], wanted: EngineKey) -> str:
        if entries:
            nearest = min((entry.key.differences(wanted) for entry in entries), key=len)
            reason = f"no engine in {self.root} fits: of the nearest one, {'; '.join(nearest)}"
        else:
            reason = f"no engine in {self.root}"
        unreadable = self._unreadable()
        return f"{reason}; {unreadable[0]} cannot be read" if unreadable else reason

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Nobody else reads or writes meanwhile."""
        with (self.root / _LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _unchanging(self) -> Iterator[None]:
        """Nobody writes meanwhile."""
        try:
            lock = (self.root / _LOCK).open()
        except OSError:  # no store, or one that only others may write
            yield
            return
        with lock:
            with suppress(OSError):  # not every file system of a network has locks
                fcntl.flock(lock, fcntl.LOCK_SH)
            yield


def _distance(key: EngineKey, wanted: EngineKey) -> tuple[bool, int]:
    """How far an engine that fits is from what is wanted; the nearest is taken."""
    # The memory that a driver leaves changes with the driver. An engine that was built again
    # because the former one does not load under this driver has this driver's.
    return not key.gpu, abs(key.memory_mib - wanted.memory_mib)


def _is_leftover(path: Path) -> bool:
    try:
        # The other times may be those of the file that it is a copy of.
        changed_s = path.stat().st_ctime
    except FileNotFoundError:
        return False
    return time.time() - changed_s > _LEFTOVER_AGE_S


def _is_outdated(path: Path) -> bool:
    """Whether a record that cannot be read is of no newer version, which could."""
    try:
        content = json.loads(path.read_bytes())
    except OSError:
        return False
    except ValueError:
        return True
    version = content.get("schema_version") if isinstance(content, dict) else None
    return not isinstance(version, int) or version <= _SCHEMA_VERSION


def _read_record(path: Path) -> StoredEngine | None:
    try:
        record = _Record.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return StoredEngine(
        key=record.key,
        path=path.with_name(record.engine),
        sha256=record.sha256,
        size_bytes=record.size_bytes,
        about=record.about,
        record_path=path,
    )
