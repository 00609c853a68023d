"""What one training sample costs one loader worker, from files and from memory."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
from rich.console import Console
from rich.table import Table

from bench.common import brief, write_result
from offline_compress.data.augment import LabelledImage
from offline_compress.data.cache import DecodedImages
from offline_compress.data.dataset import TrainingSet, View
from offline_compress.recipe.parts import DataSource, InputPx, SizePx
from offline_compress.roads.road_dataset import write_dataset

ROADS = 8
RUNS = 200
JITTER = (0.5, 1.5)
SOURCES = {"1280x720": (1280, 720), "640x384": (640, 384)}
"""Image sizes in files: BDD100K's, and a small one."""
DEPLOYED = InputPx(height=384, width=640)
CROPS = {
    "320x448": SizePx(height=320, width=448),
    "640x640": SizePx(height=640, width=640),
}
"""Height x width of a sample."""
SHARES = {"sample": 0.0, "mosaic": 1.0}
"""Of the samples, those that are put together of four images."""


def bench_data_loading(results: Path, console: Console) -> None:
    """Time every kind of sample on one core, print and write `data_loading.json`."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)  # as in a loader's worker
    rows: dict[str, dict[str, float]] = {}
    try:
        for name, (width, height) in SOURCES.items():
            with console.status(f"data loading, {name}"):
                rows |= {f"{name} {kind}": times for kind, times in _kinds(width, height).items()}
    finally:
        cv2.setNumThreads(threads)
    table = Table(title="One training sample in one worker, ms", title_justify="left")
    for column in ("", "p50", "p95", "samples/s"):
        table.add_column(column, justify="left" if not column else "right")
    for kind, times in rows.items():
        rate = f"{1e3 / times['p50']:.0f}"
        table.add_row(kind, f"{times['p50']:.2f}", f"{times['p95']:.2f}", rate)
    console.print(table)
    content = {
        "runs": RUNS,
        "scale_jitter": JITTER,
        "input": DEPLOYED.model_dump(),
        "milliseconds": rows,
    }
    console.print(f"wrote {write_result(results, 'data_loading', content)}\n", highlight=False)


def _kinds(width: int, height: int) -> dict[str, dict[str, float]]:
    """Percentiles in ms of samples of images of one size."""
    found: dict[str, dict[str, float]] = {}
    with TemporaryDirectory() as folder:
        root = write_dataset(Path(folder) / "roads", ROADS, width, height, seed=1, workers=1)
        source = DataSource(root=root, split="train")
        for name, crop in CROPS.items():
            for what, share in SHARES.items():
                view = View(crop, JITTER, share)
                data = TrainingSet([source], DEPLOYED, {0: view}, seed=0)
                kind, images = f"{what} of {name}", data.decoded
                found[f"{kind}, from files"] = _time(data.__getitem__)
                data.decoded = DecodedImages(partial(_whole, images), range(ROADS))
                found[f"{kind}, from files, all of them decoded whole"] = _time(data.__getitem__)
                for _ in images.fill():
                    pass
                data.decoded = images
                found[f"{kind}, from memory"] = _time(data.__getitem__)
    return found


def _whole(images: DecodedImages, index: int, _small: bool) -> LabelledImage:
    return images[index, False]


def _time(step: Callable[[int], object]) -> dict[str, float]:
    times_ms = []
    for run in range(RUNS):
        begin = time.perf_counter()
        step(run)
        times_ms.append((time.perf_counter() - begin) * 1e3)
    return brief(times_ms)
