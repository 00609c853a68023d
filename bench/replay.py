"""What `mtc-replay evaluate` costs: beside the bare network, in memory, live, in two workers.

Every part makes its recordings, runs the command as its users do, and is written when it is done.
"""

import itertools
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.common import write_result
from bench.replay_bags import RATE_HZ, halved, raw, read_clip, unlabelled, write_bag
from bench.replay_command import PeakMemory, evaluate
from mtc_perception.bundle import Bundle
from mtc_perception.errors import UserError
from mtc_perception.images import SourceImage
from mtc_perception.memory import keep_memory
from mtc_perception.perceiver import Perceiver
from mtc_perception.provenance import provenance
from mtc_perception.replay.frames import LabelledFrame

CLIP_IMAGES = 2 * RATE_HZ
"""Enough different images; more would only fill memory."""
ROUNDS = 2
LEAST_SPEED, MOST_GROWTH, LEAST_ANSWERED, LEAST_GAIN = 0.9, 0.05, 0.99, 1.7
"""Targets: images per second over the bare loop's, memory, share of images, one worker over two."""
LONGER = 10
"""Times as long as the short recording is the long one that memory is compared in."""

Part = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
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


def bench_replay(
    bundle: Bundle,
    drive: Path,
    results: Path,
    minute_s: float,
    only: Collection[str],
    console: Console,
) -> bool:
    """Measure the parts `only` (none: all), print, and write `replay.json` after each of them.

    Parts that the file has of this machine stay where they are not measured again. Returns whether
    every target was met. Raises UserError.
    """
    clip = read_clip(drive, CLIP_IMAGES)
    met = True
    for name, measure in PARTS.items():
        if only and name not in only:
            continue
        console.print(f"replay, {name}: {_WORDS[name]}", highlight=False)
        begin = time.perf_counter()
        with _scratch(drive.parent) as folder, console.status(f"replay, {name}"):
            part = measure(Setting(bundle.path, clip, minute_s, folder))
        for target, one in part["targets"].items():
            word = "PASS" if one["met"] else "MISS"
            console.print(f"{word}  {target}: {one['words']}, target {one['target']}")
            met = met and one["met"]
        content = with_part(_before(results), name, part, bundle.path.name)
        path = write_result(results, "replay", content)
        took_s = time.perf_counter() - begin
        console.print(f"wrote {path} ({took_s:.0f} s)\n", highlight=False)
    return met


def with_part(before: Mapping[str, Any], name: str, part: Part, bundle: str) -> dict[str, Any]:
    """The content of `replay.json` with this part, and what `before` has of the others.

    Of another machine or bundle nothing is kept: those figures cannot stand side by side.
    """
    now = provenance()
    alike = before.get("bundle") == bundle and before.get("machine") == now["machine"]
    measured = {"commit": now["commit"], "time": now["time"], **part}
    parts = {**(before["parts"] if alike else {}), name: measured}
    return {"bundle": bundle, "parts": {one: parts[one] for one in PARTS if one in parts}}


def _throughput(setting: Setting) -> Part:
    """Lock-step and the bare network on the same images, in turns."""
    seconds = setting.minute_s / 3
    clips = {
        "JPEG": unlabelled(setting.clip),
        "JPEG with labels": setting.clip,
        "raw": raw(unlabelled(setting.clip)),
    }
    bags = {
        name: setting.bag(name.replace(" ", "_"), clip, seconds) for name, clip in clips.items()
    }
    decoded = [frame.pixels.decode() for frame, _ in setting.clip]
    bare: list[float] = []
    replayed: dict[str, list[float]] = {name: [] for name in bags}
    keep_memory()
    with Perceiver.open(setting.bundle) as perceiver:
        bare_images_per_s(perceiver, decoded, CLIP_IMAGES)
        for _ in range(ROUNDS):
            for name, bag in bags.items():
                bare.append(bare_images_per_s(perceiver, decoded, 4 * CLIP_IMAGES))
                run = evaluate(bag, "--bundle", setting.bundle, out=setting.folder / "run")
                replayed[name].append(run.result["frames_per_s"])
    bare_per_s = statistics.median(bare)
    rates = {name: statistics.median(values) for name, values in replayed.items()}
    return {
        "what": "images of 1280x720 per second; replay: reading, decoding, network, judging and "
        "writing; bare network: its own pre- and postprocessing, of images decoded before",
        "bare_images_per_s": bare,
        "images_per_s": replayed,
        "targets": {
            f"lock-step, {name}": target(
                rate / bare_per_s >= LEAST_SPEED,
                f"{rate:.1f} images/s, x {rate / bare_per_s:.2f} of the bare network's "
                f"{bare_per_s:.1f}",
                f">= x {LEAST_SPEED:g}",
            )
            for name, rate in rates.items()
        },
    }


def bare_images_per_s(perceiver: Perceiver, images: Sequence[SourceImage], count: int) -> float:
    """The network alone, on `count` images: the given ones, over and over."""
    begin = time.perf_counter()
    for image in itertools.islice(itertools.cycle(images), count):
        perceiver.perceive(image)
    return count / (time.perf_counter() - begin)


def _memory(setting: Setting) -> Part:
    """Two recordings that differ in their length alone."""
    clip = halved(setting.clip)
    peaks_mib = []
    images = []
    for name, seconds in (("short", setting.minute_s), ("long", LONGER * setting.minute_s)):
        bag = setting.bag(name, clip, seconds)
        peak = PeakMemory()
        run = evaluate(bag, "--bundle", setting.bundle, out=setting.folder / "run", watch=peak)
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


def _live(setting: Setting) -> Part:
    """Raw images as fast as they were recorded."""
    bag = setting.bag("live", raw(unlabelled(setting.clip)), setting.minute_s)
    run = evaluate(bag, "--bundle", setting.bundle, "--live", out=setting.folder / "run")
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
                answered >= LEAST_ANSWERED and late_ms < 1e3 / RATE_HZ,
                f"{counts['frames_processed']} of {counts['frames_in']} images answered, end to "
                f"end p50 {time_ms['p50']:.1f} ms, p95 {time_ms['p95']:.1f} ms, "
                f"p99 {time_ms['p99']:.1f} ms",
                f">= {100 * LEAST_ANSWERED:g} %",
            )
        },
    }


def _workers(setting: Setting) -> Part:
    """Two equal recordings, one after the other and both at once."""
    bags = [setting.bag(name, setting.clip, setting.minute_s) for name in ("one", "two")]
    walls_s = []
    for workers in (1, 2):
        options = f"--threads 1 --workers {workers} --bundle".split()
        run = evaluate(*bags, *options, setting.bundle, out=setting.folder / "run")
        walls_s.append(round(run.wall_s, 2))
    one_s, two_s = walls_s
    return {
        "what": "the whole command on two recordings, JPEG images of 1280x720 with labels, a "
        "thread for each network",
        "wall_s": walls_s,
        "gain": round(one_s / two_s, 3),
        "targets": {
            "two workers": target(
                one_s / two_s >= LEAST_GAIN,
                f"{two_s:.1f} s instead of {one_s:.1f} s, x {one_s / two_s:.2f}",
                f">= x {LEAST_GAIN:g}",
            )
        },
    }


PARTS: dict[str, Callable[[Setting], Part]] = {
    "throughput": _throughput,
    "memory": _memory,
    "live": _live,
    "workers": _workers,
}
_WORDS = {
    "throughput": "lock-step beside the bare network",
    "memory": "a long recording beside a short one",
    "live": "as fast as a camera",
    "workers": "two workers beside one",
}


def target(met: bool, words: str, wanted: str) -> dict[str, Any]:
    """A verdict in `targets`."""
    return {"met": met, "words": words, "target": wanted}


def _size(frame: Any) -> int:
    return len(frame.pixels.data)


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A folder on the disk (/tmp may be memory) that is gone with all its recordings."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bench_replay.", dir=parent) as folder:
        yield Path(folder)


def _before(results: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((results / "replay.json").read_text())
    except (OSError, ValueError):
        return {}
    return content
