"""Many recordings at once: workers of this machine and of a Ray cluster, some of them killed."""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from mtc_perception.replay.options import Recording, ReplayOptions
from mtc_perception.replay.run.evaluation import evaluate_run, plan_run
from mtc_perception.replay.run.ray_runner import run_on_ray
from mtc_perception.replay.run.runners import Runner, now_and_then, run_serial, run_workers
from mtc_perception.replay.stream.task import StreamTask
from mtc_perception.util.errors import UserError
from mtc_perception.util.locking import LOCK_FILE
from support.replay_bags import stamps, write_drive

pytestmark = pytest.mark.slow

DRIVES, FRAMES = 3, 120


class Progress:
    """What a run says of itself, and a chance to interfere."""

    def __init__(self) -> None:
        self.done: dict[str, list[int]] = {}

    def planned(self, tasks: list[StreamTask], there: int, run: Path) -> None:
        self.there = there

    def __call__(self, task: StreamTask, done: int, total: int) -> None:
        self.done.setdefault(task.name, []).append(done)


class Impatient(Progress):
    """Ctrl-C as soon as something of a stream is written."""

    def __init__(self, run: Path) -> None:
        super().__init__()
        self._run = run

    def __call__(self, task: StreamTask, done: int, total: int) -> None:
        # Short streams may end before they tell more than that they have begun.
        end_s = time.monotonic() + 10.0
        while not any(self._run.glob("streams/*")) and time.monotonic() < end_s:
            time.sleep(0.002)
        raise KeyboardInterrupt


@contextlib.contextmanager
def killing(run: Path, stream: str, times: int) -> Iterator[list[int]]:
    """Kills a worker as soon as it has written something of a stream, so many times.

    Gives the list of the processes killed so far.
    """
    killed: list[int] = []
    enough = threading.Event()

    def watch() -> None:
        while not enough.wait(0.002) and len(killed) < times:
            for records in run.glob(f"streams/.*{stream}*.part/*/frames.jsonl"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
                    _, number, *_ = (records.parents[1] / LOCK_FILE).read_text().split()
                    if int(number) not in killed and records.stat().st_size:
                        os.kill(int(number), signal.SIGKILL)
                        killed.append(int(number))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        enough.set()
        thread.join()


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    folder = tmp_path_factory.mktemp("drives")
    return [
        Recording(path=write_drive(folder / f"drive_{seed}", stamps(FRAMES, 30.0), seed=seed))
        for seed in range(DRIVES)
    ]


@pytest.fixture(scope="module")
def options(toy_bundle: Path) -> ReplayOptions:
    return ReplayOptions(bundle=toy_bundle, engine="onnxruntime", threads=1)


@pytest.fixture(scope="module")
def alone(
    drives: list[Recording], options: ReplayOptions, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The run of one process, which all others must equal."""
    run = tmp_path_factory.mktemp("alone") / "run"
    return run, evaluate_run(drives, options, run, run_serial, Progress())


@dataclass(frozen=True, slots=True)
class Cluster:
    """Of two nodes with one processor each, on this machine."""

    address: str
    process: psutil.Process
    """All of its processes descend from it."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A Ray cluster, which the last test of this module destroys."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: pip install -r requirements/ray.txt")
    program = (
        "import sys\n"
        "from ray.cluster_utils import Cluster\n"
        "size = {'num_cpus': 1, 'object_store_memory': 80_000_000}\n"
        "head = {**size, 'include_dashboard': False, 'dashboard_agent_listen_port': None}\n"
        "cluster = Cluster(initialize_head=True, head_node_args=head)\n"
        "cluster.add_node(**size)\n"
        "print('address', cluster.address, flush=True)\n"
        "sys.stdin.read()\n"
        "cluster.shutdown()\n"
    )
    # Next to another cluster of this machine: what Ray writes lies in a folder of its own, ports
    # are free ones. Its sockets must have short paths.
    with (
        tempfile.TemporaryDirectory(
            prefix="ray.", dir="/tmp", ignore_cleanup_errors=True
        ) as folder,
        (Path(folder) / "said").open("w+") as said,
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env={**os.environ, "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"},
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        printed = ""
        for line in process.stdout:
            printed += line
            if line.startswith("address"):
                yield Cluster(line.split()[1], psutil.Process(process.pid))
                break
        else:
            said.seek(0)
            pytest.fail(f"no Ray cluster: exit code {process.wait()}\n{printed}{said.read()}")
        process.stdin.close()
        process.wait(60)


@pytest.fixture(params=["processes", "ray"])
def two_at_once(request: pytest.FixtureRequest) -> Runner:
    """Two streams at a time: by processes of this machine, by the two nodes of the cluster."""
    if request.param == "ray":
        return partial(run_on_ray, request.getfixturevalue("cluster").address)
    return partial(run_workers, 2)


def lasting(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what no two runs have in common: times, and when and on what it ran."""
    passing = {"latency_ms", "frames_per_s", "time", "commit", "machine", "versions", "resumed"}
    content = {key: value for key, value in result.items() if key not in passing}
    content["streams"] = [
        {key: value for key, value in stream.items() if key not in passing}
        for stream in result["streams"]
    ]
    return content


def assert_same(
    run: Path, result: dict[str, Any], alone: tuple[Path, dict[str, Any]], runs: int = DRIVES
) -> None:
    assert lasting(result) == lasting(alone[1])
    records = sorted(path.relative_to(run) for path in run.glob("streams/*/frames.jsonl"))
    assert len(records) == runs
    for record in records:
        assert (run / record).read_bytes() == (alone[0] / record).read_bytes()
    assert list(run.glob("streams/.*")) == []


def test_two_workers_give_the_result_of_one_process(
    drives: list[Recording],
    options: ReplayOptions,
    alone: tuple[Path, dict[str, Any]],
    tmp_path: Path,
) -> None:
    progress = Progress()
    runner: Runner = partial(run_workers, 2)
    result = evaluate_run(drives, options, tmp_path, runner, progress)
    assert_same(tmp_path, result, alone)
    assert len(progress.done) == DRIVES
    assert all(seen == sorted(seen) for seen in progress.done.values())


@pytest.mark.fault(
    area="replay",
    row="a worker of a replay is killed, of this machine or of a Ray cluster",
    answer="Its stream is begun again by another one; the result is the same.",
    diagnostics="Nothing.",
)
def test_a_killed_worker_costs_time_only(
    drives: list[Recording],
    options: ReplayOptions,
    alone: tuple[Path, dict[str, Any]],
    two_at_once: Runner,
    tmp_path: Path,
) -> None:
    with killing(tmp_path, "drive_1", times=1) as killed:
        result = evaluate_run(drives, options, tmp_path, two_at_once, Progress())
    assert len(killed) == 1
    assert result["failed"] == []
    assert_same(tmp_path, result, alone)


def test_an_interrupted_run_leaves_nothing_half_written(
    drives: list[Recording], options: ReplayOptions, two_at_once: Runner, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(drives, options, tmp_path, two_at_once, Impatient(tmp_path))
    assert list(tmp_path.glob("streams/.*")) == []
    assert not (tmp_path / "result.json").exists()


@pytest.mark.fault(
    area="replay",
    row="a stream kills every worker that takes it",
    answer="It fails after three tries, the others are evaluated; the same command tries it again.",
    diagnostics="Exit code 1; the stream and how its worker ended.",
)
def test_a_stream_that_kills_its_workers_fails_alone_and_is_resumed(
    drives: list[Recording],
    options: ReplayOptions,
    alone: tuple[Path, dict[str, Any]],
    tmp_path: Path,
) -> None:
    runner: Runner = partial(run_workers, 2)
    with killing(tmp_path, "drive_0", times=100) as killed:
        result = evaluate_run(drives, options, tmp_path, runner, Progress())
    assert len(killed) == 3
    (failure,) = result["failed"]
    assert failure["name"].startswith("drive_0")
    assert "tried 3 times" in failure["error"]
    assert [stream["name"] for stream in result["streams"]] == [
        stream["name"] for stream in alone[1]["streams"][1:]
    ]
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("streams/0*/frames.jsonl")}
    progress = Progress()
    again = evaluate_run(drives, options, tmp_path, runner, progress)
    assert progress.there == DRIVES - 1
    assert all(path.stat().st_mtime_ns == when for path, when in made.items())
    assert_same(tmp_path, again, alone)


def gone(task: StreamTask, folder: Path) -> StreamTask:
    """The task, of a recording that is not there."""
    recording = task.recording.model_copy(update={"path": folder / "gone"})
    return replace(task, recording=recording)


def test_what_no_worker_can_mend_is_not_tried_again(
    drives: list[Recording], options: ReplayOptions, tmp_path: Path
) -> None:
    (first, second), _ = plan_run(drives[:2], options, tmp_path)
    seen = Progress()
    outcomes = run_workers(1, [gone(first, tmp_path), second], seen)
    assert [failure.error for failure in outcomes.failures] == [f"{tmp_path}/gone does not exist"]
    assert [result.name for result in outcomes.results] == [second.name]
    assert first.name not in seen.done


def test_ray_says_what_cannot_be(
    drives: list[Recording], options: ReplayOptions, cluster: Cluster, tmp_path: Path
) -> None:
    tasks, _ = plan_run(drives[:1], options, tmp_path)
    many = options.model_copy(update={"threads": 64})
    with pytest.raises(UserError, match="no machine of the cluster has 64 processors"):
        run_on_ray(cluster.address, [replace(tasks[0], options=many)], Progress())
    outcomes = run_on_ray(cluster.address, [gone(tasks[0], tmp_path)], Progress())
    assert [failure.error for failure in outcomes.failures] == [f"{tmp_path}/gone does not exist"]
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(UserError, match=f"no Ray cluster at {closed}: Connection refused"):
            run_on_ray(closed, tasks, Progress())


def test_progress_is_told_now_and_then_and_at_the_end() -> None:
    told: list[int] = []
    tick = now_and_then(lambda done, total: told.append(done))
    for done in range(1, 1001):
        tick(done, 1000)
    assert (told[0], told[-1]) == (1, 1000)
    assert len(told) < 500


def test_without_ray_it_is_named(
    drives: list[Recording],
    options: ReplayOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"--ray needs Ray.*pip install"):
        run_on_ray("127.0.0.1:1", plan_run(drives[:1], options, tmp_path)[0], Progress())


@pytest.mark.fault(
    area="replay",
    row="the head of a Ray cluster is lost during a replay",
    answer="Exit code 2 in seconds; finished streams stay, and the same command goes on.",
    diagnostics="One line with the cluster's address, and what to do.",
)
def test_a_cluster_that_is_lost(
    drives: list[Recording], options: ReplayOptions, cluster: Cluster, tmp_path: Path
) -> None:
    words = ["evaluate", *(one.path for one in drives), "--bundle", options.bundle]
    words += ["--engine", "onnxruntime", "--out", tmp_path / "run", "--ray", cluster.address]
    program = "from mtc_perception.replay.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words)], stderr=subprocess.PIPE, text=True
    ) as replay:
        while not list(tmp_path.glob("run/streams/.*")):
            assert replay.poll() is None
            time.sleep(0.01)
        own = cluster.process.children(recursive=True)
        [head] = [process for process in own if process.name() == "gcs_server"]
        head.kill()
        _, errors = replay.communicate(timeout=50)
    for process in (*own, cluster.process):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert replay.returncode == 2, errors
    [line] = errors.splitlines()
    assert line.startswith(
        f"error: the Ray cluster at {cluster.address} is lost; what is finished stays"
    )
    result = evaluate_run(drives, options, tmp_path / "run", run_serial, Progress())
    assert result["failed"] == []
