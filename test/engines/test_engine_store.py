import errno
import json
import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mtc_perception.engines.tensorrt.store
import mtc_perception.util.files
from mtc_perception.engines.tensorrt.key import EngineKey, Profile, build_command
from mtc_perception.engines.tensorrt.store import EngineStore, default_root
from mtc_perception.util.errors import EngineError

AHEAD = EngineKey(
    model_sha256="a" * 64,
    precision="fp16",
    profile=Profile(1, 384, 640),
    flavour="tensorrt_rtx",
    version="1.7.1.116",
    gpu="",
    multiprocessors=0,
    memory_mib=0,
    compute_capability=("sm86", "sm89"),
)
"""Built ahead of time for two kinds of GPU."""
HERE = replace(
    AHEAD,
    gpu="NVIDIA GeForce RTX 4090",
    multiprocessors=128,
    memory_mib=24_080,
    compute_capability=("sm89",),
)
"""What a machine with one of them needs."""
ABOUT = {"seconds": 1.5, "command": "mtc-engine build models/mtc_nano.mtc"}


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    return EngineStore(tmp_path / "new" / "engines")


@pytest.fixture
def an_hour_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that have just been written are as old as those that nobody waits for."""
    monkeypatch.setattr(mtc_perception.engines.tensorrt.store, "_LEFTOVER_AGE_S", -1.0)


def files(store: EngineStore) -> list[str]:
    return sorted(path.suffix for path in store.root.iterdir() if path.name != ".lock")


def test_an_engine_comes_back_with_its_record(store: EngineStore) -> None:
    assert store.entries() == []
    path = store.put(AHEAD, b"engine", ABOUT)
    (entry,) = store.entries()
    assert (entry.key, entry.path, entry.about) == (AHEAD, path, ABOUT)
    assert entry.size_bytes == 6
    assert store.read(entry) == path.read_bytes() == b"engine"
    assert store.find(HERE) == b"engine"
    assert store.find(replace(HERE, gpu="NVIDIA RTX A4000", compute_capability=("sm86",)))


@pytest.mark.fault(
    area="store",
    row="a stored engine is of another GPU, driver or version",
    answer="It is refused; auto goes on to the next engine.",
    diagnostics="why names what differs and the command that builds anew.",
)
@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"model_sha256": "b" * 64}, "model_sha256 is aaaaaaaaaaaa, needed is bbbbbbbbbbbb"),
        ({"precision": "int8"}, "precision is fp16, needed is int8"),
        ({"profile": Profile(1, 640, 640)}, "profile is 1x384x640, needed is 1x640x640"),
        ({"version": "1.8.0.1"}, "version is 1.7.1.116, needed is 1.8.0.1"),
        ({"compute_capability": ("sm120",)}, "compute_capability is sm86/sm89, needed is sm120"),
    ],
)
def test_a_mismatch_is_refused_with_what_differs(
    store: EngineStore, change: dict[str, Any], difference: str
) -> None:
    store.put(AHEAD, b"engine", ABOUT)
    with pytest.raises(EngineError) as caught:
        store.find(replace(HERE, **change), "models/mtc_nano.mtc")
    reason, command = str(caught.value).split("; build it: ")
    assert reason == f"no engine in {store.root} fits: of the nearest one, {difference}"
    assert command.startswith("mtc-engine build models/mtc_nano.mtc --precision ")


def test_tensorrt_wants_the_very_gpu(store: EngineStore) -> None:
    orin = replace(
        HERE,
        flavour="tensorrt",
        version="10.3.0",
        gpu="Orin",
        multiprocessors=8,
        memory_mib=7_620,
        compute_capability=("sm87",),
    )
    store.put(orin, b"engine", ABOUT)
    assert store.find(orin) == b"engine"
    with pytest.raises(EngineError, match="gpu is Orin, needed is Thor; build it"):
        store.find(replace(orin, gpu="Thor"))
    # All Orin boards have GPUs of that name.
    with pytest.raises(EngineError, match="multiprocessors is 8, needed is 16; build it"):
        store.find(replace(orin, multiprocessors=16))
    with pytest.raises(EngineError, match="memory_mib is 7620, needed is 15656; build it"):
        store.find(replace(orin, memory_mib=15_656))
    # Another kernel keeps a little more of the memory for itself.
    assert store.find(replace(orin, memory_mib=7_500)) == b"engine"
    # Only TensorRT-RTX builds for GPUs that it does not see.
    assert replace(orin, gpu="").differences(orin)


def test_the_nearest_engine_is_the_one_explained(store: EngineStore) -> None:
    store.put(replace(AHEAD, precision="fp32", version="1.6.0.1"), b"far", ABOUT)
    store.put(replace(AHEAD, version="1.6.0.1"), b"near", ABOUT)
    with pytest.raises(EngineError, match=r"nearest one, version is 1\.6\.0\.1, needed is 1\.7\.1"):
        store.find(HERE)


def test_an_empty_store_names_the_command(store: EngineStore) -> None:
    with pytest.raises(EngineError) as caught:
        store.find(HERE, "my models/road.mtc")
    command = "mtc-engine build 'my models/road.mtc' --precision fp16 --flavour rtx --target sm89"
    assert str(caught.value) == f"no engine in {store.root}; build it: {command}"
    # TensorRT builds for the GPU at hand only.
    assert build_command(replace(HERE, flavour="tensorrt")).endswith("--flavour tensorrt")


def test_an_engine_of_this_gpu_comes_before_one_for_many(store: EngineStore) -> None:
    store.put(HERE, b"of this GPU", ABOUT)
    store.put(AHEAD, b"ahead of time", ABOUT)
    assert store.find(HERE) == b"of this GPU"


@pytest.mark.parametrize("former_mib", [24_000, 24_079, 24_081, 24_200])
def test_an_engine_built_again_under_another_driver_is_the_one_taken(
    store: EngineStore, former_mib: int
) -> None:
    store.put(replace(HERE, memory_mib=former_mib), b"of the former driver", ABOUT)
    assert store.find(HERE) == b"of the former driver"
    store.put(HERE, b"built again", ABOUT)
    store.put(AHEAD, b"ahead of time", ABOUT)
    assert store.find(HERE) == b"built again"


@pytest.mark.parametrize("damage", [b"", b"enginf", b"engine and more"])
def test_a_damaged_engine_is_refused(store: EngineStore, damage: bytes) -> None:
    path = store.put(AHEAD, b"engine", ABOUT)
    path.write_bytes(damage)
    with pytest.raises(EngineError, match=r"is damaged, .*; build it again: mtc-engine build road"):
        store.find(HERE, "road.mtc")
    path.unlink()
    with pytest.raises(EngineError, match=r"No such file.*; build it again: mtc-engine build"):
        store.find(HERE)
    store.put(AHEAD, b"engine", ABOUT)
    assert store.find(HERE) == b"engine"


@pytest.mark.fault(
    area="store",
    row="a stored TensorRT engine is damaged",
    answer="The next sound one is taken.",
    diagnostics="device names the damage.",
)
def test_a_damaged_engine_does_not_hide_a_sound_one(store: EngineStore) -> None:
    best = store.put(HERE, b"of this GPU", ABOUT)
    other = store.put(AHEAD, b"ahead of time", ABOUT)
    best.write_bytes(b"of this gpu")
    notes: list[str] = []
    assert store.find(HERE, note=notes.append) == b"ahead of time"
    assert notes == [f"{best}: is damaged, its sha256 is not its record's"]
    other.unlink()
    with pytest.raises(EngineError) as caught:
        store.find(HERE, note=notes.append)
    message = str(caught.value)
    assert message.startswith(f"{notes[0]}; {other}: cannot be read: No such file or directory; ")
    assert "; build it again: mtc-engine build" in message
    assert len(notes) == 3


@pytest.mark.parametrize("record", ["", "{}", '{"schema_version": 2}', "[1, 2"])
def test_an_unreadable_record_is_no_engine_but_keeps_it(store: EngineStore, record: str) -> None:
    path = store.put(AHEAD, b"engine", ABOUT)
    (entry,) = store.entries()
    entry.record_path.write_text(record)
    assert store.entries() == []
    with pytest.raises(EngineError) as caught:
        store.find(HERE)
    assert f"{entry.record_path} cannot be read" in str(caught.value)
    # A newer version may be able to read it.
    store.put(replace(AHEAD, precision="int8"), b"other", ABOUT)
    assert path.exists()
    store.put(AHEAD, b"engine", ABOUT)
    assert store.find(HERE) == b"engine"


def test_what_older_versions_stored_is_found_and_removed(store: EngineStore) -> None:
    store.put(AHEAD, b"engine", ABOUT)
    (record,) = store.root.glob("*.json")
    content = json.loads(record.read_text())
    others: list[Path] = []

    def stored(name: str, text: str) -> None:
        others.append(store.root / f"mtc-{name}.json")
        others[-1].write_text(text)
        (store.root / f"mtc-{name}.0123456789ab.engine").write_bytes(b"seven!!")

    del content["key"]["multiprocessors"], content["key"]["memory_mib"]
    stored("older", json.dumps(content | {"schema_version": 1}))
    stored("damaged", record.read_text()[:-9])
    stored("newer", json.dumps(content | {"schema_version": 3}))
    assert store.outdated() == sorted(others[:2])
    assert store.remove([], store.outdated()) == 14
    assert store.outdated() == []
    assert [path.exists() for path in others] == [False, False, True]
    assert files(store) == [".engine", ".engine", ".json", ".json"]
    assert store.find(HERE) == b"engine"


def test_a_file_system_without_locks_is_read_all_the_same(
    store: EngineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(AHEAD, b"engine", ABOUT)

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(mtc_perception.engines.tensorrt.store.fcntl, "flock", flock)
    assert store.find(HERE) == b"engine"
    with pytest.raises(EngineError, match="cannot keep the engine: No locks available"):
        store.put(AHEAD, b"other", ABOUT)


def test_a_newer_engine_takes_the_place_of_an_older_one(store: EngineStore) -> None:
    store.put(AHEAD, b"old", ABOUT)
    store.put(AHEAD, b"new", {"seconds": 2.0})
    assert store.find(HERE) == b"new"
    (entry,) = store.entries()
    assert entry.about == {"seconds": 2.0}
    assert files(store) == [".engine", ".json"]


def leave_half_written_files(store: EngineStore) -> None:
    """What killed processes leave: an engine, and kernel timings."""
    (store.root / ".mtc-aaaa.engine.123").write_bytes(b"half of an eng")
    (store.root / ".timings-Orin-10.3.0.cache.123").write_bytes(b"half of the tim")
    (store.root / "mtc-of-nobody.engine").write_bytes(b"its record was never written")


@pytest.mark.usefixtures("an_hour_later")
def test_engines_are_removed_with_what_killed_processes_left(store: EngineStore) -> None:
    store.remove([])  # of a store that does not exist yet
    store.put(AHEAD, b"engine", ABOUT)
    store.put(replace(AHEAD, precision="int8"), b"other", ABOUT)
    gone, kept = store.entries()
    leave_half_written_files(store)
    (store.root / "timings-Orin-10.3.0.cache").write_bytes(b"whole")
    (store.root / "notes.txt").write_text("mine")
    lying = sum(path.stat().st_size for path in store.root.iterdir() if path.suffix != ".json")
    assert store.remove([gone]) == lying - len(b"whole") - len(b"mine") - kept.size_bytes
    assert store.entries() == [kept]
    assert files(store) == [".cache", ".engine", ".json", ".txt"]


def test_what_came_lately_may_be_part_of_a_copy(store: EngineStore, tmp_path: Path) -> None:
    source = EngineStore(tmp_path / "built_elsewhere")
    engine = source.put(AHEAD, b"engine", ABOUT)
    (entry,) = source.entries()
    store.root.mkdir(parents=True)
    # As rsync and `cp -a` do: with the times of the source, the engine first.
    os.utime(engine, (0, 0))
    shutil.copy2(engine, store.root)
    leave_half_written_files(store)
    store.put(replace(AHEAD, precision="int8"), b"other", ABOUT)
    store.remove([])
    shutil.copy2(entry.record_path, store.root)
    assert store.find(HERE) == b"engine"
    assert len(list(store.root.glob(".*.123"))) == 2


@pytest.mark.fault(
    area="store",
    row="the process is killed while an engine is stored",
    answer="The store is as it was before.",
    diagnostics="Nothing: mtc-engine lists whole engines only.",
)
@pytest.mark.parametrize("calls", [1, 2])
def test_an_interrupted_put_leaves_the_store_as_it_was(
    store: EngineStore, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(AHEAD, b"old", ABOUT)
    left = calls

    def interrupted(source: Path, target: Path) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        shutil.move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(mtc_perception.util.files.os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.put(AHEAD, b"new", ABOUT)
    assert store.find(HERE) == b"old"
    monkeypatch.setattr(mtc_perception.engines.tensorrt.store, "_LEFTOVER_AGE_S", -1.0)
    store.remove([])
    assert files(store) == [".engine", ".json"]


def _put_again_and_again(root: Path, times: int) -> None:
    for number in range(times):
        EngineStore(root).put(AHEAD, bytes([number]) * 100_000, ABOUT)


@pytest.mark.fault(
    area="store",
    row="two nodes, or a node and mtc-engine, read and build in one folder at the same time",
    answer="Readers see whole engines only.",
    diagnostics="Nothing.",
)
def test_readers_see_whole_engines_while_others_write(store: EngineStore) -> None:
    store.put(AHEAD, b"first", ABOUT)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_put_again_and_again, args=(store.root, 40)) for _ in "ab"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        found = store.find(HERE)
        assert found == b"first" or len(found) == 100_000
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert store.find(HERE) == bytes([39]) * 100_000


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(EngineError, match=r"file/engines: cannot keep the engine: Not a directory"):
        EngineStore(tmp_path / "file" / "engines").put(AHEAD, b"engine", ABOUT)


KEEP_IN_FULL_AND_READ_ONLY = f"""
import subprocess, sys
from pathlib import Path
from mtc_perception.engines.tensorrt.key import EngineKey, Profile
from mtc_perception.engines.tensorrt.store import EngineStore
from mtc_perception.util.errors import EngineError

key = {HERE!r}
root = Path(sys.argv[1])
store = EngineStore(root)
store.put(key, b"old", {{}})

def refused(keep, *arguments):
    before = sorted(root.iterdir())
    try:
        keep(*arguments)
    except EngineError as error:
        print(error)
    assert sorted(root.iterdir()) == before
    assert store.find(key) == b"old"

refused(store.put, key, bytes(2 * 2**20), {{}})
subprocess.run(["mount", "-o", "remount,ro", root], check=True)
refused(store.put, key, b"new", {{}})
refused(store.check_writable)
"""


@pytest.mark.fault(
    area="store",
    row="the disk of the folder of built engines is full, or read-only",
    answer="What is kept there is loaded; read-only, nothing is built in vain.",
    diagnostics="One line with the folder and what is wrong with it; `auto` goes on to the next.",
)
def test_a_full_or_read_only_store_is_read(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=1m,mode=700 none "$1" || exit 99; exec "$2" -c "$3" "$1"'
    words = ["bash", tmp_path, sys.executable, KEEP_IN_FULL_AND_READ_ONLY]
    done = subprocess.run(
        ["unshare", "-Urm", "bash", "-c", script, *map(str, words)],
        capture_output=True,
        text=True,
    )
    if done.returncode == 99 or "unshare failed" in done.stderr:
        pytest.skip("no file system may be mounted here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{tmp_path}: cannot keep the engine: No space left on device",
        *[f"{tmp_path}: cannot keep the engine: Read-only file system"] * 2,
    ]


def test_a_store_is_its_user_s(store: EngineStore) -> None:
    path = store.put(AHEAD, b"engine", ABOUT)
    (entry,) = store.entries()
    assert [stat.S_IMODE(one.stat().st_mode) for one in (store.root, path, entry.record_path)] == [
        0o700,
        0o600,
        0o600,
    ]


@pytest.fixture(params=["0o775", "0o757", "foreign"])
def exposed(request: pytest.FixtureRequest) -> Callable[[Path], str]:
    """Lets another user change what is at a path; says what is to be said of it."""

    def expose(path: Path) -> str:
        if request.param != "foreign":
            path.chmod(int(request.param, 8))
            return f"other users may change {path}: chmod go-w {path}"
        if os.geteuid() != 0:
            pytest.skip("only root can give files away")
        os.chown(path, 12345, -1)
        return f"{path} belongs to another user (number 12345)"

    return expose


@pytest.mark.fault(
    area="store",
    row="other users may write into the folder of built engines, or to an engine",
    answer="Nothing is loaded from there nor built into it; `auto` goes on to the next engine.",
    diagnostics="One line with the path, its owner or the chmod that is needed.",
)
@pytest.mark.parametrize("what", ["folder", "engine", "record"])
def test_what_others_may_have_made_is_not_loaded(
    store: EngineStore, exposed: Callable[[Path], str], what: str
) -> None:
    path = store.put(AHEAD, b"engine", ABOUT)
    (entry,) = store.entries()
    reason = exposed({"folder": store.root, "engine": path, "record": entry.record_path}[what])
    for load in (lambda: store.find(HERE), lambda: store.read(entry)):
        with pytest.raises(EngineError) as caught:
            load()
        assert reason in str(caught.value)
    if what == "folder":
        with pytest.raises(EngineError, match="no engine is taken from a folder of others"):
            store.put(AHEAD, b"engine", ABOUT)
    else:
        store.put(AHEAD, b"engine", ABOUT)
        assert store.find(HERE) == b"engine"


def test_the_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MTC_ENGINE_CACHE", str(tmp_path))
    assert EngineStore().root == tmp_path
    monkeypatch.delenv("MTC_ENGINE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_root() == tmp_path / ".cache" / "mtc_perception" / "engines"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_root() == tmp_path / "cache" / "mtc_perception" / "engines"


@pytest.mark.fault(
    area="store",
    row="a user without a home folder (docker run --user)",
    answer="No built engine is kept or taken.",
    diagnostics="One line that asks for MTC_ENGINE_CACHE.",
)
def test_a_user_without_a_home_is_asked_for_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2_000_000_000)  # of whom the system knows nothing
    with pytest.raises(EngineError, match=r"there is no home folder .* set MTC_ENGINE_CACHE"):
        EngineStore()
