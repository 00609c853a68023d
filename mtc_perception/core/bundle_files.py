"""How a bundle lies on disk: a directory, or the same as a zip file."""

import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO

from typing_extensions import Self

from mtc_perception.util.errors import BundleError
from mtc_perception.util.files import (
    open_regular,
    replacing,
    replacing_folder,
    restore_folder,
    sync,
)

MANIFEST_NAME = "manifest.json"
MOST_FILE_BYTES = 512 * 2**20
"""Of a bundle's file, unpacked. The largest known network for this task has a quarter of it."""
MOST_MEMBERS = 100
"""Files and folders in a zipped bundle."""
_MOST_DIRECTORY_BYTES = 128 * 2**10
"""Of a zip file's table of contents, which is read whole to begin with."""
_MOST_RATIO = 100
"""Unpacked over packed. Weights do not compress; this leaves room for networks of zeros."""
_ANY_RATIO_BYTES = 2**20
_CHUNK_BYTES = 2**20
# What zipfile does not know is a RuntimeError, a name that is no text a ValueError.
_UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error)


class BundleFiles:
    """Reads the files of a bundle, turning every failure into BundleError. A context manager.

    What is read may come from anybody: sizes and counts are checked before anything is unpacked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        self._source: _ZipSource | None = None
        self._prefix = ""

    def __enter__(self) -> Self:
        try:
            # Unlike Path's methods these do not raise where access is denied.
            if not os.path.exists(self.path):
                with suppress(OSError):
                    restore_folder(self.path)
            if not os.path.exists(self.path):
                raise BundleError(f"{self.path}: no such bundle, or no permission to read it")
            if not os.path.isdir(self.path):
                self._open_zip()
        except BundleError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._zip is not None:
            self._zip.close()
        if self._source is not None:
            self._source.close()

    def has(self, name: str) -> bool:
        """Whether there is anything of this name."""
        if self._zip is not None:
            return self._prefix + name in self._zip.namelist()
        return os.path.lexists(self.path / name)

    def read(self, name: str, most_bytes: int = MOST_FILE_BYTES) -> bytes:
        """The content of a file. `name` must be a plain file name."""
        with self._opened(name, most_bytes) as (stream, size):
            return stream.read(size)

    def sha256(self, name: str) -> str:
        """That of a file, which may be larger than memory; in lower-case hexadecimal."""
        digest = hashlib.sha256()
        with self._opened(name, MOST_FILE_BYTES) as (stream, _):
            while block := stream.read(_CHUNK_BYTES):
                digest.update(block)
        return digest.hexdigest()

    @contextmanager
    def _opened(self, name: str, most_bytes: int) -> Iterator[tuple[IO[bytes], int]]:
        """A file and its size."""
        try:
            if self._zip is not None:
                info = self._zip.getinfo(self._prefix + name)
                self._check_member(name, info)
                stream, size = self._zip.open(info), info.file_size
            else:
                stream = open_regular(self.path / name)
                size = os.fstat(stream.fileno()).st_size
            with stream:
                if size > most_bytes:
                    raise BundleError(
                        f"{self.path}: {name} has {size} bytes, the most is {most_bytes}"
                    )
                yield stream, size
        except (KeyError, FileNotFoundError) as error:
            raise BundleError(f"{self.path}: {name} is missing from the bundle") from error
        except _UNREADABLE as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            raise BundleError(f"{self.path}: cannot read {name}: {reason}") from error

    def _open_zip(self) -> None:
        try:
            self._source = _ZipSource(open_regular(self.path).detach(), _MOST_DIRECTORY_BYTES)
            self._zip = archive = zipfile.ZipFile(self._source)
        except _UNREADABLE as error:
            raise BundleError(
                f"{self.path}: neither a bundle directory nor a zip file ({error})"
            ) from error
        self._source.most_bytes = MOST_FILE_BYTES
        names = archive.namelist()
        if len(names) > MOST_MEMBERS or len(set(names)) < len(names):
            raise BundleError(
                f"{self.path}: is no bundle: it has {len(names)} members, {len(set(names))} names;"
                f" the most is {MOST_MEMBERS}, each once"
            )
        if outside := [name for name in names if _leads_out(name)]:
            raise BundleError(
                f"{self.path}: is no bundle: its member {outside[0]!r} leads out of it"
            )
        # `zip -r x.zip name.mtc` puts everything below a folder, and file managers put folders of
        # their own beside it: that is fine too.
        manifests = [name for name in names if _is_manifest(name)]
        if len(manifests) > 1:
            raise BundleError(f"{self.path} holds several bundles: {', '.join(manifests)}")
        if manifests:
            self._prefix = manifests[0].removesuffix(MANIFEST_NAME)

    def _check_member(self, name: str, info: zipfile.ZipInfo) -> None:
        if info.flag_bits & 1:
            raise BundleError(
                f"{self.path}: {name} is encrypted; zip the bundle without a password"
            )
        # Of the other methods zipfile does not bound what one step unpacks.
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BundleError(
                f"{self.path}: {name} is packed by a method that is not read; zip the bundle with"
                " `zip -r`"
            )
        packed_bytes = min(info.compress_size, self.path.stat().st_size)
        if info.file_size > max(_ANY_RATIO_BYTES, _MOST_RATIO * packed_bytes):
            raise BundleError(
                f"{self.path}: {packed_bytes} bytes of {name} unpack to {info.file_size}, the most"
                f" is {_MOST_RATIO} times as much"
            )


class _ZipSource(io.BufferedReader):
    """A zip file of which nobody reads more at once than allowed."""

    def __init__(self, raw: io.RawIOBase, most_bytes: int) -> None:
        super().__init__(raw)
        self.most_bytes = most_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = os.fstat(self.fileno()).st_size - self.tell()
        if size > self.most_bytes:
            raise zipfile.BadZipFile(f"a part of it has {size} bytes")
        return super().read(size)


def _leads_out(name: str) -> bool:
    """Whether a name, as a path, may be one outside of the folder that it is unpacked to."""
    parts = name.removesuffix("/").split("/")
    return "\\" in name or any(part in ("", ".", "..") for part in parts)


def _is_manifest(name: str) -> bool:
    """Whether a file of an archive is the manifest of a bundle in it."""
    return PurePosixPath(name).name == MANIFEST_NAME


def write_files(path: Path, contents: Mapping[str, bytes]) -> None:
    """Replace the bundle at `path` by one of these files; there is never a partial one, not even
    after a power cut.

    A path ending in `.zip` becomes a zip file, any other a directory; the same contents always
    give the same bytes. Raises BundleError if `path` holds something else than a bundle.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        _write_zip(path, contents)
    else:
        _write_directory(path, contents)


def _write_zip(path: Path, contents: Mapping[str, bytes]) -> None:
    if path.exists() and not zipfile.is_zipfile(path):
        raise BundleError(f"{path}: exists and is not a bundle; remove it or choose another path")
    with replacing(path, durable=True) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, data in contents.items():
            # A fixed date keeps the bytes reproducible; weights do not compress.
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), data)


def _write_directory(path: Path, contents: Mapping[str, bytes]) -> None:
    if path.exists() and not (path / MANIFEST_NAME).is_file():
        raise BundleError(f"{path}: exists and is not a bundle; remove it or choose another path")
    with replacing_folder(path) as new:
        new.mkdir()
        for name, data in contents.items():
            (new / name).write_bytes(data)
            sync(new / name)
