"""How a bundle lies on disk: a directory, or the same as a zip file."""

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from typing_extensions import Self

from mtc_perception.util.errors import BundleError
from mtc_perception.util.files import replacing, replacing_folder, restore_folder, sync

MANIFEST_NAME = "manifest.json"


class BundleFiles:
    """Reads the files of a bundle, turning every failure into BundleError. A context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        self._prefix = ""

    def __enter__(self) -> Self:
        restore_folder(self.path)
        if not os.path.exists(self.path):  # Path.exists raises where access is denied
            raise BundleError(f"{self.path}: no such bundle, or no permission to read it")
        if self.path.is_file():
            try:
                self._zip = zipfile.ZipFile(self.path)
            except (zipfile.BadZipFile, OSError) as error:
                raise BundleError(
                    f"{self.path}: neither a bundle directory nor a zip file ({error})"
                ) from error
            # `zip -r x.zip name.mtc` puts everything below a folder, and file managers put
            # folders of their own beside it: that is fine too.
            manifests = [name for name in self._zip.namelist() if _is_manifest(name)]
            if len(manifests) > 1:
                raise BundleError(f"{self.path} holds several bundles: {', '.join(manifests)}")
            if manifests:
                self._prefix = manifests[0].removesuffix(MANIFEST_NAME)
        return self

    def __exit__(self, *_: object) -> None:
        if self._zip is not None:
            self._zip.close()

    def read(self, name: str) -> bytes:
        """The content of a file. `name` must be a plain file name."""
        try:
            if self._zip is not None:
                return self._zip.read(self._prefix + name)
            return (self.path / name).read_bytes()
        except (KeyError, FileNotFoundError) as error:
            raise BundleError(f"{self.path}: {name} is missing from the bundle") from error
        except (
            OSError,
            EOFError,
            zipfile.BadZipFile,
            zlib.error,
            NotImplementedError,  # a compression method that zipfile lacks
            RuntimeError,  # an encrypted member
        ) as error:
            raise BundleError(f"{self.path}: cannot read {name}: {error}") from error


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
