"""The measurements of `mtc-replay evaluate`, each with recordings of its own.

Every one runs the command as its users do and returns its figures, with a verdict in `targets`.
"""

import itertools
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.replay_bags import RATE_HZ, halved, raw, unlabelled, write_bag
from bench.replay_command import PeakMemory, evaluate
from mtc_perception.core.images import SourceImage
from mtc_perception.replay.options import Recording, ReplayOptions
from mtc_perception.replay.recordings.recording import LabelledFrame, Notes
from mtc_perception.replay.recordings.sources import open_source
from mtc_perception.replay.run.evaluation import plan_run
from mtc_perception.replay.stream.stream import run_stream
from mtc_perception.runtime.perceiver import Perceiver, Selection, open_perceiver
from mtc_perception.runtime.perceiver_pool import PerceiverPool
from mtc_perception.util.errors import UserError
from mtc_perception.util.memory import keep_memory

CLIP_IMAGES = 2 * RATE_HZ
"""Enough different images; more would only fill memory."""
ROUNDS = 2
LEAST_SPEED, MOST_GROWTH, LEAST_ANSWERED, LEAST_GAIN = 0.9, 0.05, 0.99, 1.7
"""Targets: images per second over the bare loop's, memory, share of images, one worker over two."""
LEAST_BUSY = 0.9
"""Target: share of the processors' time, while a recording is evaluated, that goes into that."""
LONGER = 10
"""Times as long as the short recording is the long one that memory is compared in."""

Part = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PartSetup:
    """What every part measures with."""

    bundle: Path
    clip: Sequence[LabelledFrame]
    """JPEG images with labels."""
    minute_s: float
    """Length of a short recording."""
    folder: Path
    """For the recordings and runs of this part."""

    def bag(self, name: str, clip: Sequence[LabelledFrame], seconds: float) -> Path:
        """A new recording. Raises UserError where the disk has no room for it."""
        images = max(CLIP_IMAGES, round(seconds * RATE_HZ))
        needed = images * sum(_size(frame) for frame, _ in clip) / len(clip)
        if shutil.disk_usage(self.folder).free < 1.2 * needed:
            raise UserError(f"{self.folder} needs room for a recording of {needed / 1e9:.1f} GB")
        return write_bag(self.folder / name, clip, images)


def _throughput(setup: PartSetup) -> Part:
    """Lock-step, the bare network and a plain loop on the same images, in turns."""
    clips = {
        "JPEG": unlabelled(setup.clip),
        "JPEG with labels": setup.clip,
        "raw": raw(unlabelled(setup.clip)),
    }
    bags = {
        name: setup.bag(name.replace(" ", "_"), clip, setup.minute_s / 5)
        for name, clip in clips.items()
    }
    decoded = [frame.pixels.decode() for frame, _ in setup.clip]
    keep_memory()
    rows = {}
    costs = {name: evaluation_cost(setup.bundle, bag) for name, bag in bags.items()}
    with ExitStack() as stack:
        networks = {
            threads: stack.enter_context(open_perceiver(Selection(setup.bundle, threads=threads)))
            for threads in (None, 1)
        }
        for threads, name in [*((None, name) for name in bags), (1, "JPEG")]:
            network, bag = networks[threads], bags[name]
            options: list[str | Path] = [bag, "--bundle", setup.bundle]
            options += ["--threads", str(threads)] if threads else []
            bare_images_per_s(network, decoded, CLIP_IMAGES)
            rates: dict[str, list[float]] = {"bare": [], "plain": [], "lockstep": []}
            for _ in range(ROUNDS):
                rates["bare"].append(bare_images_per_s(network, decoded, 4 * CLIP_IMAGES))
                rates["plain"].append(plain_images_per_s(network, bag))
                run = evaluate(*options, out=setup.folder / "run")
                rates["lockstep"].append(run.result["frames_per_s"])
            row = f"{name}, one thread" if threads else name
            rows[row] = {way: round(statistics.mean(values), 2) for way, values in rates.items()}
    return {
        "what": "images of 1280x720 per second; lock-step reads, decodes, judges and writes; a "
        "plain loop reads and decodes; the bare network has images decoded before, and every core "
        "to itself unless it is told to use one thread; processors: those of the machine, from the "
        "first image to the last",
        "images_per_s": rows,
        "cpu_ms_per_image": {name: round(cost.cpu_ms_per_image, 2) for name, cost in costs.items()},
        "busy": {name: round(cost.busy, 3) for name, cost in costs.items()},
        "targets": {f"lock-step, {name}": _speed_target(**row) for name, row in rows.items()}
        | {f"processors, {name}": _busy_target(cost) for name, cost in costs.items()},
    }


@dataclass(frozen=True, slots=True)
class Cost:
    """What evaluating a recording takes, with its engine loaded."""

    cpu_ms_per_image: float
    busy: float
    """Share of the processors' time, 0..1."""


def evaluation_cost(bundle: Path, recording: Path) -> Cost:
    """Evaluate a recording in this process. Raises UserError where that fails."""
    options = ReplayOptions(bundle=bundle)
    run = recording.with_name(f"{recording.name}_cost")
    (task,), _ = plan_run([Recording(path=recording)], options, run)
    with PerceiverPool() as perceivers:
        with perceivers.lend(options.selection):
            pass  # it is loaded now
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        result = run_stream(task, perceivers, lambda done, total: None)
        cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    shutil.rmtree(run)
    busy = cpu_s / wall_s / len(os.sched_getaffinity(0))
    return Cost(1e3 * cpu_s / result.frames_expected, busy)


def _busy_target(cost: Cost) -> dict[str, Any]:
    words = f"{cost.busy:.0%} busy, {cost.cpu_ms_per_image:.1f} ms of them per image"
    return target(cost.busy >= LEAST_BUSY, words, f">= {LEAST_BUSY:.0%} busy")


def _speed_target(lockstep: float, bare: float, plain: float) -> dict[str, Any]:
    words = (
        f"{lockstep:.1f} images/s, x {lockstep / bare:.2f} of the bare network's {bare:.1f} and "
        f"x {lockstep / plain:.2f} of a plain loop's {plain:.1f}"
    )
    return target(lockstep / bare >= LEAST_SPEED, words, f">= x {LEAST_SPEED:g} of the bare one's")


def bare_images_per_s(perceiver: Perceiver, images: Sequence[SourceImage], count: int) -> float:
    """The network alone, on `count` images: the given ones, over and over."""
    begin = time.perf_counter()
    for image in itertools.islice(itertools.cycle(images), count):
        perceiver.perceive(image)
    return count / (time.perf_counter() - begin)


def plain_images_per_s(perceiver: Perceiver, recording: Path) -> float:
    """What a script would do: read an image and its labels, decode it, have it perceived."""
    count = 0
    begin = time.perf_counter()
    for frame, _ in open_source(recording).labelled_frames(Notes()):
        perceiver.perceive(frame.pixels.decode(perceiver.input_size))
        count += 1
    return count / (time.perf_counter() - begin)


def _memory(setup: PartSetup) -> Part:
    """Two recordings that differ in their length alone."""
    clip = halved(setup.clip)
    peaks_mib = []
    images = []
    for name, seconds in (("short", setup.minute_s), ("long", LONGER * setup.minute_s)):
        bag = setup.bag(name, clip, seconds)
        peak = PeakMemory()
        run = evaluate(bag, "--bundle", setup.bundle, out=setup.folder / "run", watch=peak)
        peaks_mib.append(round(peak.mib, 1))
        images.append(run.result["frames_in"])
        shutil.rmtree(bag)
    short, long = peaks_mib
    growth = long / short - 1
    return {
        "what": "resident memory of all processes of the command at its peak; JPEG images of "
        "640x360 with labels",
        "images": images,
        "peak_mib": peaks_mib,
        "growth": round(growth, 4),
        "targets": {
            "memory": target(
                growth < MOST_GROWTH,
                f"{short:.0f} MiB for {images[0]} images, {long:.0f} MiB for {images[1]} "
                f"({100 * growth:+.1f} %)",
                f"< {100 * MOST_GROWTH:+g} %",
            )
        },
    }


def _live(setup: PartSetup) -> Part:
    """Raw images as fast as they were recorded, and the same in lock-step."""
    bag = setup.bag("live", raw(unlabelled(setup.clip)), setup.minute_s)
    run = evaluate(bag, "--bundle", setup.bundle, "--live", out=setup.folder / "run")
    lockstep = evaluate(bag, "--bundle", setup.bundle, out=setup.folder / "run")
    pairs = list(zip(run.digests, lockstep.digests, strict=True))
    both = sum(one != "" for one, _ in pairs)
    same = sum(one == other != "" for one, other in pairs)
    names = ("frames_in", "frames_processed", "frames_dropped", "frames_stale")
    counts = {name: run.result[name] for name in names}
    answered = counts["frames_processed"] / counts["frames_in"]
    time_ms = run.result["latency_ms"]["end_to_end"]
    late_ms = run.result["live"]["played_late_ms_max"]
    return {
        "what": f"raw images of 1280x720 at {RATE_HZ} Hz through the node; end to end: from "
        "publishing an image until another process has its last output",
        **counts,
        "answered": round(answered, 5),
        "latency_ms": run.result["latency_ms"],
        "jitter_ms": run.result["live"]["jitter_ms"],
        "played_late_ms_max": late_ms,
        "targets": {
            f"live, {RATE_HZ} Hz": target(
                answered >= LEAST_ANSWERED,
                f"{counts['frames_processed']} of {counts['frames_in']} images answered, end to "
                f"end p50 {time_ms['p50']:.1f} ms, p95 {time_ms['p95']:.1f} ms, "
                f"p99 {time_ms['p99']:.1f} ms; published at most {late_ms:.0f} ms late",
                f">= {100 * LEAST_ANSWERED:g} %",
            ),
            "live and lock-step": target(
                same == both,
                f"{same} of {both} answers are the same, box for box and pixel for pixel "
                f"({run.result['precision']} on {run.result['engine']})",
                "all",
            ),
        },
    }


def _workers(setup: PartSetup) -> Part:
    """Two equal recordings, one after the other and both at once."""
    bag = setup.bag("workers", unlabelled(halved(setup.clip)), setup.minute_s)
    walls_s = []
    for workers in (1, 2):
        options = f"--threads 1 --workers {workers} --bundle".split()
        run = evaluate(bag, bag, *options, setup.bundle, out=setup.folder / "run")
        walls_s.append(round(run.wall_s, 2))
    one_s, two_s = walls_s
    return {
        "what": "the whole command, from its start to its page, on two recordings of JPEG images "
        "of 640x360, a thread for each network; one worker, too, reads and judges beside it",
        "wall_s": walls_s,
        "targets": {
            "two workers": target(
                one_s / two_s >= LEAST_GAIN,
                f"{two_s:.1f} s instead of {one_s:.1f} s, x {one_s / two_s:.2f}",
                f">= x {LEAST_GAIN:g}",
            )
        },
    }


def target(met: bool, words: str, wanted: str) -> dict[str, Any]:
    """A verdict in `targets`."""
    return {"met": met, "words": words, "target": wanted}


def _size(frame: Any) -> int:
    return len(frame.pixels.data)


PARTS: dict[str, Callable[[PartSetup], Part]] = {
    "throughput": _throughput,
    "memory": _memory,
    "live": _live,
    "workers": _workers,
}
