"""What one training sample costs one loader worker, from files and from memory."""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.common import brief, write_result
from mtc_perception.datasets.layout import read_split
from offline_compress.data.augment import augment
from offline_compress.data.dataset import load_labelled
from offline_compress.data.mosaic import mosaic
from offline_compress.roads.road_dataset import write_dataset

ROADS = 8
RUNS = 200
JITTER = (0.6, 1.7)
SOURCES = {"1280x720": (1280, 720), "640x384": (640, 384)}
"""Image sizes in files: BDD100K's, and a small one."""
CROPS = {"320x448": (320, 448), "640x640": (640, 640)}
"""Height x width of a sample; the network's input is taken to be as wide as 640 pixels."""
DEPLOYED_WIDTH = 640


def bench_data_loading(results: Path, console: Console) -> None:
    """Time every step on one core, print and write `data_loading.json`."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)  # as in a loader's worker
    rows: dict[str, dict[str, float]] = {}
    try:
        for name, (width, height) in SOURCES.items():
            with console.status(f"data loading, {name}"):
                rows |= {f"{name} {step}": times for step, times in _steps(width, height).items()}
    finally:
        cv2.setNumThreads(threads)
    table = Table(title="One training sample in one worker, ms", title_justify="left")
    for column in ("", "p50", "p95", "samples/s"):
        table.add_column(column, justify="left" if not column else "right")
    for step, times in rows.items():
        rate = f"{1e3 / times['p50']:.0f}"
        table.add_row(step, f"{times['p50']:.2f}", f"{times['p95']:.2f}", rate)
    console.print(table)
    content = {"runs": RUNS, "scale_jitter": JITTER, "milliseconds": rows}
    console.print(f"wrote {write_result(results, 'data_loading', content)}\n", highlight=False)


def _steps(width: int, height: int) -> dict[str, dict[str, float]]:
    """Percentiles in ms of decoding and augmenting images of one size."""
    with TemporaryDirectory() as folder:
        root = write_dataset(Path(folder) / "roads", ROADS, width, height, seed=1, workers=1)
        samples = read_split(root, "train")
        decoded = [load_labelled(sample) for sample in samples]
        found = {"decode": _time(lambda run: load_labelled(samples[run % ROADS]))}
    scales = (DEPLOYED_WIDTH / width * JITTER[0], DEPLOYED_WIDTH / width * JITTER[1])

    def one(run: int, crop: tuple[int, int]) -> None:
        augment(decoded[run % ROADS], *crop, scales, np.random.default_rng(run))

    def four(run: int, crop: tuple[int, int]) -> None:
        tiles = [decoded[(run + tile) % ROADS] for tile in range(4)]
        mosaic(tiles, *crop, [scales] * 4, np.random.default_rng(run))

    for name, crop in CROPS.items():
        found[f"augment to {name}"] = _time(lambda run, crop=crop: one(run, crop))
        found[f"mosaic of {name}"] = _time(lambda run, crop=crop: four(run, crop))
    return found


def _time(step: Callable[[int], object]) -> dict[str, float]:
    times_ms = []
    for run in range(RUNS):
        begin = time.perf_counter()
        step(run)
        times_ms.append((time.perf_counter() - begin) * 1e3)
    return brief(times_ms)
