import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from mtc_perception.core.bundle import read_bundle
from mtc_perception.util.files import sync, write_bytes_atomic, write_text_atomic
from support.toy_bundle import write_toy_bundle


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """What is asked of the disk, in this order: `sync` of a path, `replace` of what was there."""
    asked: list[tuple[str, Path]] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        asked.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def noted_replace(source: Any, target: Any) -> None:
        asked.append(("replace", Path(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    return asked


def test_a_durable_file_is_on_the_disk_before_its_name(
    tmp_path: Path, disk: list[tuple[str, Path]]
) -> None:
    path = tmp_path / "record.json"
    assert write_text_atomic(path, "new", durable=True) == path
    assert path.read_text() == "new"
    (first, temporary), *rest = disk
    assert (first, temporary.parent) == ("sync", tmp_path)
    assert temporary != path
    assert rest == [("replace", path), ("sync", tmp_path)]


def test_other_files_do_not_wait_for_the_disk(tmp_path: Path, disk: list[tuple[str, Path]]) -> None:
    write_bytes_atomic(tmp_path / "log", b"new")
    assert disk == [("replace", tmp_path / "log")]


def test_what_cannot_be_put_in_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_bytes_atomic(tmp_path / "taken", b"new", durable=True)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["toy.mtc", "toy.zip"])
def test_a_bundle_is_on_the_disk_before_it_takes_the_place_of_another(
    tmp_path: Path, name: str, disk: list[tuple[str, Path]]
) -> None:
    path = write_toy_bundle(tmp_path / name)
    disk.clear()
    write_toy_bundle(path, version="2")
    names = [(what, where.name) for what, where in disk]
    in_place = disk.index(("replace", path))
    assert disk[in_place + 1 :] == [("sync", tmp_path)]
    synced = [where for what, where in names[:in_place] if what == "sync"]
    if name == "toy.mtc":
        assert {*synced} == {"manifest.json", "model.onnx", "new"}
        # The old one is set aside for as short a time as possible.
        assert names[in_place - 1] == ("replace", "old")
    else:
        assert len(synced) == 1
    assert read_bundle(path).manifest.version == "2"
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert not any(tmp_path.iterdir())
