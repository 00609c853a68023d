"""What the host adds to the engine: the Perceiver's own stages for usual camera images."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from bench.common import brief, identity, tracked, write_result
from mtc_perception.core.bundle import Bundle
from mtc_perception.core.images import SourceImage, decode_compressed, view_image
from mtc_perception.core.input_size import InputSize
from mtc_perception.core.letterbox import to_rgb
from mtc_perception.replay.recordings.sources import open_source
from mtc_perception.replay.recordings.synthetic_drive import SYNTHETIC_HEIGHT, SYNTHETIC_WIDTH
from mtc_perception.runtime.perceiver import Selection, open_perceiver

Reader = Callable[[], SourceImage]

RUNS = 100
STAGES = ("read", "preprocess", "inference", "decode")


def bench_host(bundle: Bundle, bag: Path, results: Path, console: Console) -> None:
    """Time every stage, print and write `host.json`. Raises UserError."""
    rgb = to_rgb(next(iter(open_source(bag).frames())).pixels.decode())
    image = np.ascontiguousarray(rgb[..., ::-1])
    large = np.asarray(cv2.resize(image, (1920, 1080)), np.uint8)
    inputs = {
        f"bgr8 {SYNTHETIC_WIDTH}x{SYNTHETIC_HEIGHT}": _raw(image),
        "bgr8 1920x1080": _raw(large),
        f"JPEG {SYNTHETIC_WIDTH}x{SYNTHETIC_HEIGHT}": _jpeg(image, bundle.manifest.input.size),
    }
    stages: dict[str, dict[str, dict[str, float]]] = {}
    with open_perceiver(Selection(bundle.path)) as perceiver:
        device = perceiver.engine.device
        for name, read in inputs.items():
            times: dict[str, list[float]] = {stage: [] for stage in STAGES}
            for _ in tracked(range(RUNS), f"host, {name}", console):
                begin = time.perf_counter()
                source = read()
                times["read"].append((time.perf_counter() - begin) * 1e3)
                took = perceiver.perceive(source).times
                times["preprocess"].append(took.preprocess_ms)
                times["inference"].append(took.inference_ms)
                times["decode"].append(took.decode_ms)
            stages[name] = {stage: brief(values) for stage, values in times.items()}
    table = Table(title="Perceiver stages, p50 in ms", title_justify="left")
    table.add_column("image")
    for stage in (*STAGES, "host"):
        table.add_column(stage, justify="right")
    host_ms = {}
    for name, values in stages.items():
        host_ms[name] = sum(values[s]["p50"] for s in STAGES if s != "inference")
        table.add_row(name, *(f"{values[s]['p50']:.2f}" for s in STAGES), f"{host_ms[name]:.2f}")
    console.print(table)
    measured = {"device": device, "stages": stages, "host_ms": host_ms}
    content: dict[str, Any] = identity(bundle) | measured
    console.print(f"wrote {write_result(results, 'host', content)}\n", highlight=False)


def _raw(image: npt.NDArray[np.uint8]) -> Reader:
    height, width = image.shape[:2]
    data = image.tobytes()
    return lambda: view_image("bgr8", height, width, 3 * width, data)


def _jpeg(image: npt.NDArray[np.uint8], fit: InputSize) -> Reader:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])
    content = data.tobytes()
    return lambda: decode_compressed(content, fit)
