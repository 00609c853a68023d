import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mtc_perception.core.bundle import read_bundle
from mtc_perception.util import files
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import (
    replacing_folder,
    restore_folder,
    sync,
    write_bytes_atomic,
    write_text_atomic,
)
from mtc_perception.util.locking import held
from support.small_disk import on_small_disk
from support.toy_bundle import write_toy_bundle


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """What is asked of the disk, in this order: `sync` of a path, `replace` of what was there."""
    asked: list[tuple[str, Path]] = []
    fsync, replace, exchanged = os.fsync, os.replace, files._exchanged

    def noted_fsync(descriptor: int) -> None:
        asked.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def noted_replace(source: Any, target: Any) -> None:
        asked.append(("replace", Path(target)))
        replace(source, target)

    def noted_exchange(source: Path, target: Path) -> bool:
        asked.append(("replace", target))
        return exchanged(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    monkeypatch.setattr(files, "_exchanged", noted_exchange)
    return asked


@pytest.mark.fault(
    area="disk",
    row="power is cut while a state, checkpoint, engine or bundle is replaced",
    answer="Content is synced before its name, names before work goes on: old or new is there.",
    diagnostics="Nothing.",
)
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
        assert {*synced} == {"manifest.json", "model.onnx", "toy.mtc"}
    else:
        assert len(synced) == 1
    assert read_bundle(path).manifest.version == "2"
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert not any(tmp_path.iterdir())


@pytest.fixture(params=[True, False], ids=["in one step", "in two"])
def exchange(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the file system can make two folders change places."""
    if not request.param:
        monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    return bool(request.param)


def folder_with(path: Path, text: str) -> Path:
    with replacing_folder(path) as new:
        new.mkdir()
        (new / "file").write_text(text)
    return path


@pytest.mark.usefixtures("exchange")
def test_a_folder_stays_until_its_successor_is_complete(tmp_path: Path) -> None:
    path = folder_with(tmp_path / "run", "old")
    with contextlib.suppress(ZeroDivisionError), replacing_folder(path) as new:
        new.mkdir()
        (new / "file").write_text("half")
        raise ZeroDivisionError
    assert (path / "file").read_text() == "old"
    folder_with(path, "new")
    assert (path / "file").read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, signal, sys
from pathlib import Path
from mtc_perception.util import files
path, exchange, moment = Path(sys.argv[1]), sys.argv[2] == "True", int(sys.argv[3])
if not exchange:
    files._exchanged = lambda *_: False
moments = iter(range(100))
def die_at(function):
    def called(*arguments):
        if next(moments) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments)
        if next(moments) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return called
os.replace = die_at(os.replace)
if exchange:
    files._exchanged = die_at(files._exchanged)
with files.replacing_folder(path) as new:
    new.mkdir()
    (new / "file").write_text("new")
"""


@pytest.mark.fault(
    area="bundle",
    row="a process is killed while it replaces a bundle, bag, data set or stream",
    answer="The old one or the new one is there; the next command cleans up.",
    diagnostics="Nothing; where the disk cannot exchange folders, reading restores the old one.",
)
@pytest.mark.parametrize("moment", range(4))
def test_a_process_killed_in_the_middle_leaves_the_old_folder_or_the_new(
    tmp_path: Path, exchange: bool, moment: int
) -> None:
    path = folder_with(tmp_path / "run", "old")
    killed = subprocess.run([sys.executable, "-c", KILLED, path, str(exchange), str(moment)])
    assert killed.returncode == (0 if exchange and moment > 1 else -signal.SIGKILL)
    assert path.exists() or not exchange
    restore_folder(path)
    assert (path / "file").read_text() in ("old", "new")
    folder_with(path, "newest")  # and cleans up
    assert (path / "file").read_text() == "newest"
    assert list(tmp_path.iterdir()) == [path]


HOLDER = """
import sys
from pathlib import Path
from mtc_perception.util.files import replacing_folder
with replacing_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.fault(
    area="bundle",
    row="two commands write one bundle, bag or data set at the same time",
    answer="The second one ends with exit code 2, the first goes on.",
    diagnostics="One line with the pid and the host of the first.",
)
def test_two_processes_do_not_make_one_folder(tmp_path: Path) -> None:
    path = tmp_path / "bundle.mtc"
    command = [sys.executable, "-c", HOLDER, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=rf"works in .*bundle\.mtc \(pid {other.pid} on "):
            folder_with(path, "mine")
        other.kill()
    assert folder_with(path, "mine").is_dir()  # a lock goes with its process
    with held(path):
        assert (path / ".lock").read_text().startswith(f"pid {os.getpid()} on ")


WRITE = """
from pathlib import Path
from mtc_perception.util.command_line import run_app
from mtc_perception.util.files import replacing_folder, write_bytes_atomic
def write():
    with replacing_folder(Path("folder")) as new:
        new.mkdir()
        with (new / "file").open("wb") as file:
            file.write(bytes(1 << 20))
run_app({})
"""


@pytest.mark.fault(
    area="disk",
    row="the disk is full while a file or a folder is replaced",
    answer="Exit code 2; what was there stays, what was begun is removed.",
    diagnostics="One line: the file, that the disk is full, what to do.",
)
@pytest.mark.parametrize(
    ("what", "program"),
    [("folder", "write"), ("file", 'lambda: write_bytes_atomic(Path("file"), bytes(1 << 20))')],
)
def test_a_full_disk_is_named_and_nothing_is_left_or_lost(
    tmp_path: Path, what: str, program: str
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    folder_with(disk / "folder", "old")
    (disk / "file").write_text("old")
    ended = on_small_disk(disk, 100, ["-c", WRITE.format(program)])
    assert ended.code == 2
    advice = "free some space and give the same command again"
    assert ended.errors == f"error: {what}: No space left on device; {advice}\n"
    assert {(ended.disk / name).read_text() for name in ("file", "folder/file")} == {"old"}
    assert ended.parts() == []
