"""`python -m bench.kills`: commands killed (-9) at random moments end as undisturbed ones do."""

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.common import ends_in_one_line, write_result
from mtc_perception.engines.tensorrt.store import EngineStore
from mtc_perception.node.parameters import default_bundle
from mtc_perception.util.errors import ReplayError
from mtc_perception.util.files import replacing_folder, write_text_atomic

KILLS, SEED, MINUTES = 100, 15, 8.0
KILLS_PER_TRIAL = 3
"""Before a command may end."""
_WHOLE = "whole.json"
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    [
        "mtc_perception.replay.run.evaluation",
        "offline_compress.pipeline.pipeline",
        "torch._inductor",
    ]
)
"""A clean process that has imported what takes seconds forks those that are killed."""

_SCHEDULE = {
    "epochs": 4,
    "samples_per_epoch": 16,
    "batch": 4,
    "learning_rate": 0.002,
    "weight_decay": 0.01,
    "warmup_epochs": 0.5,
    "ema_decay": 0.9,
    "validate_every_epochs": 1,
}
_RECIPE = {
    "name": "tiny",
    "model": "mtc_xs",
    "arguments": {
        "stem": 8,
        "widths": [8, 8, 16, 16],
        "depths": [1, 1, 1, 1],
        "pyramid": 8,
        "mask": 8,
        "drivable": 8,
        "lane": 8,
    },
    "classes": ["vehicle"],
    "input": {"height": 128, "width": 192},
    "crop": {"height": 64, "width": 96},
    "train": [{"root": "roads", "split": "train"}],
    "validate_on": {"root": "roads", "split": "val"},
    "schedule": _SCHEDULE,
    "checkpoint_minutes": 0,
    "licence": "test",
    "compress": {
        "teacher": "teacher/best",
        "scoring": {"images": 4, "batch": 2},
        "prune": {
            "budget": {"parameters": 0.7},
            "cost": "macs",
            "steps": 2,
            "round_to": 1,
            "least_channels": 2,
            "guard": {"detection": 100, "drivable": 100, "lane": 100},
        },
        "recover": {"schedule": dict(_SCHEDULE, epochs=2)},
        "quantise": {"variants": ["fp16", "int8-ort"], "images": 4, "tolerance": 100},
    },
}
_COMPRESS = ("--recipe", "tiny.yaml", "--threads", "1", "--allow-missed", "--out")
_ONE_THREAD = ("-b", "BUNDLE", "--engine", "onnxruntime", "--threads", "1", "--out")
_RTX = ("--flavour", "rtx", "--target", "sm89")
_TRAIN = ("mtc-compress", "train", "--recipe", "tiny.yaml", "--threads", "1", "--out")


@dataclass(frozen=True, slots=True)
class Job:
    """A command that may be killed, and given again, until it ends."""

    words: tuple[str, ...]
    """Of the command, but for the folder that it writes."""
    outcome: Callable[[Path], Any]
    """JSON of all in that folder that must not depend on kills."""
    begins_with: str = ""
    """Folder that is a copy of at first; empty: none."""


def _weights(folder: Path, *names: str) -> dict[str, str]:
    files = [folder / name for name in names]
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def _trained(folder: Path) -> Any:
    log = (folder / "log.jsonl").read_text()
    return [_weights(folder, "best/model.safetensors", "last/model.safetensors"), log]


def _pruned(folder: Path) -> Any:
    plan = json.loads((folder / "prune" / "plan.json").read_text())
    for step in plan["steps"]:
        for name in [name for name in step if "latency" in name]:
            del step[name]
    files = ("prune/best/model.safetensors", "prune/step_1/scores.safetensors")
    return [plan, _weights(folder, *files)]


def _quantised(folder: Path) -> Any:
    [bundle] = folder.glob("*.mtc")
    manifest = json.loads((bundle / "manifest.json").read_text())
    for variant in manifest["variants"].values():
        if variant["assessment"]:
            del variant["assessment"]["timings"]
    names = sorted(path.name for path in bundle.glob("*.onnx"))
    reports = json.loads((folder / "quantise.json").read_text())
    return [manifest, reports, _weights(bundle, *names)]


def _replayed(folder: Path) -> Any:
    result = json.loads((folder / "result.json").read_text())
    figures = ("detection", "drivable", "lane", "frames_processed", "results_sha256", "notes")
    files = sorted(folder.glob("streams/*/frames.jsonl"))
    names = [str(path.relative_to(folder)) for path in files]
    return [{name: result[name] for name in figures}, _weights(folder, *names)]


def _built(folder: Path) -> Any:
    """Every engine is there once and whole; two builds of one differ in a few bytes."""
    store = EngineStore(folder)
    for entry in store.entries():
        store.read(entry)
    return sorted(entry.key.stem for entry in store.entries())


JOBS = {
    "train": Job(_TRAIN, _trained),
    "prune": Job(("mtc-compress", "prune", *_COMPRESS), _pruned),
    "quantise": Job(("mtc-compress", "quantize", *_COMPRESS), _quantised, "student"),
    "replay": Job(("mtc-replay", "evaluate", "drive_0", "drive_1", *_ONE_THREAD), _replayed),
    "build": Job(("mtc-engine", "build", "BUNDLE", *_RTX, "--store"), _built),
}


class Kills:
    """The trials of one folder, which the next call goes on with."""

    def __init__(self, folder: Path, seed: int, bundle: Path) -> None:
        self._folder, self._seed, self._bundle = folder.absolute(), seed, bundle.absolute()

    def prepare(self, jobs: Sequence[str]) -> None:
        """Make data, recipe, and the networks that the jobs begin with, unless they are there."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "tiny.yaml").write_text(yaml.safe_dump(_RECIPE))
        roads = ("mtc-compress", "synth", "dataset", "roads", "--count", "6", "--workers", "1")
        drive = ("mtc-compress", "synth", "bag", "--seconds", "1", "--fps", "15", "--workers", "1")
        compress = {"prune", "quantise"} & set(jobs)
        learn = compress | ({"train"} & set(jobs))
        for name, needed, words in (
            ("roads", learn, (*roads, "--size", "192x128", "--val-fraction", "0.33")),
            *(
                (f"drive_{seed}", "replay" in jobs, (*drive, "--size", "320x192", f"drive_{seed}"))
                for seed in range(2)
            ),
            ("teacher", compress, (*_TRAIN, "teacher")),
            ("student", "quantise" in jobs, ("mtc-compress", "distill", *_COMPRESS, "student")),
        ):
            done = self._folder / f"{name}.made"
            if needed and not done.exists():
                self._run(words, f"{name}.log")
                done.touch()

    def undisturbed(self, name: str) -> tuple[Any, float]:
        """What a job comes to if nobody disturbs it, and the seconds that it takes."""
        path = self._folder / f"{name}.{_WHOLE}"
        if not path.exists():
            out = self._begun(name, f"{name}-whole")
            begin_s = time.monotonic()
            self._run(self._words(name, out), f"{out}.log")
            seconds = time.monotonic() - begin_s
            content = {"outcome": self._outcome(name, out), "seconds": seconds}
            write_text_atomic(path, json.dumps(content) + "\n")
        content = json.loads(path.read_text())
        return content["outcome"], content["seconds"]

    def trial(self, name: str, number: int) -> dict[str, Any]:
        """Kill a job at random moments, let it end; `kills`, `at_s`, `equal`."""
        path = self._folder / f"{name}-{number}.json"
        if not path.exists():
            wanted, seconds = self.undisturbed(name)
            dice = random.Random(f"{self._seed} {name} {number}")
            out = self._begun(name, f"{name}-{number}")
            words, log = self._words(name, out), f"{out}.log"
            # The first in its first half: even if the machine is faster now, it still runs then.
            ends_s = (seconds / 2, *[seconds] * (KILLS_PER_TRIAL - 1))
            moments = (dice.uniform(0, end_s) for end_s in ends_s)
            at_s = [round(at_s, 3) for at_s in moments if self._killed(words, log, at_s)]
            self._run(words, log)
            equal = self._outcome(name, out) == wanted
            content = {"kills": len(at_s), "at_s": at_s, "equal": equal}
            write_text_atomic(path, json.dumps(content) + "\n")
            if equal:
                shutil.rmtree(self._folder / out)
        content = json.loads(path.read_text())
        assert isinstance(content, dict)
        return content

    def _begun(self, name: str, out: str) -> str:
        shutil.rmtree(self._folder / out, ignore_errors=True)
        if start := JOBS[name].begins_with:
            with replacing_folder(self._folder / out) as new:
                shutil.copytree(self._folder / start, new)
        return out

    def _words(self, name: str, out: str) -> list[str]:
        words = (*JOBS[name].words, out)
        return [str(self._bundle) if word == "BUNDLE" else word for word in words]

    def _outcome(self, name: str, out: str) -> Any:
        # As it is read back.
        return json.loads(json.dumps(JOBS[name].outcome(self._folder / out)))

    def _run(self, words: Sequence[str], log: str) -> None:
        """Raises ReplayError if the command fails."""
        with self._started(words, log) as process:
            process.join()
        if process.exitcode:
            raise ReplayError(f"{' '.join(words)} ends with {process.exitcode}: see {log}")

    def _killed(self, words: Sequence[str], log: str, at_s: float) -> bool:
        """Whether the command, and all its processes, had to be killed after so many seconds."""
        with self._started(words, log) as process:
            process.join(at_s)
            if process.exitcode is None:
                with contextlib.suppress(ProcessLookupError):  # it has no group of its own yet
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
                process.join()
        return bool(process.exitcode == -signal.SIGKILL)

    @contextlib.contextmanager
    def _started(self, words: Sequence[str], log: str) -> Iterator[Any]:
        process = _PROCESSES.Process(target=command, args=(list(words), self._folder, log))
        process.start()
        try:
            yield process
        finally:
            process.kill()
            process.join()


def command(words: list[str], folder: Path, log: str) -> None:
    """Be a command in `folder`, with a quick stop watch and one thread; adds to the file `log`."""
    os.setsid()
    os.chdir(folder)
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = words
    if words[0] == "mtc-compress":
        import torch

        from offline_compress import cli as program
        from offline_compress.evaluation import latency
        from offline_compress.training import lineage

        torch.set_num_threads(1)
        latency.LOADS, latency.BLOCKS, latency.RUNS_PER_BLOCK = 1, 2, 1
        # The checkout may move on between two commands whose results are compared.
        lineage.provenance = lambda: {"commit": "any"}
        program.main()
    elif words[0] == "mtc-replay":
        from mtc_perception.replay import cli

        cli.main()
    else:
        from mtc_perception.commands import engine

        engine.main()


@ends_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """0 if all results were equal, 1 if not, or if there is more to do; 2 for a mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.kills",
        description="Kill training, pruning, quantising, replay and engine builds (-9) at random "
        "moments, let them go on, and compare with undisturbed ones. The same command goes on.",
    )
    parser.add_argument("jobs", nargs="*", help=f"of {', '.join(JOBS)}; default: all")
    parser.add_argument("--kills", type=int, default=KILLS, help="in all (%(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="of the moments (%(default)s)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="then stop (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/kills"), help="(%(default)s)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="(%(default)s)")
    options = parser.parse_args(arguments)
    if unknown := set(options.jobs) - set(JOBS):
        parser.error(f"no job {', '.join(sorted(unknown))}; there are {', '.join(JOBS)}")
    jobs = options.jobs or list(JOBS)
    end_s = time.monotonic() + 60 * options.minutes
    kills = Kills(options.out, options.seed, default_bundle())
    kills.prepare(jobs)
    trials: dict[str, list[dict[str, Any]]] = {name: [] for name in jobs}
    for number in range(options.kills):
        for name in jobs:
            if _count(trials) < options.kills and time.monotonic() < end_s:
                trials[name].append(kills.trial(name, number))
                print(f"{_count(trials)} of {options.kills} kills: {name} {trials[name][-1]}")
    equal = all(trial["equal"] for done in trials.values() for trial in done)
    if not equal:
        print(f"some results differ: see {options.out}", file=sys.stderr)
    if _count(trials) < options.kills:
        print("more to do; the same command goes on", file=sys.stderr)
        return 1
    about = {
        name: {
            "kills": sum(trial["kills"] for trial in done),
            "resumed": len(done),
            "equal": sum(trial["equal"] for trial in done),
            "seconds": round(kills.undisturbed(name)[1], 1),
        }
        for name, done in trials.items()
    }
    content = {"kills": _count(trials), "seed": options.seed, "jobs": about}
    print(write_result(options.results, "kills", content))
    return 0 if equal else 1


def _count(trials: dict[str, list[dict[str, Any]]]) -> int:
    return sum(trial["kills"] for done in trials.values() for trial in done)


if __name__ == "__main__":
    sys.exit(main())
