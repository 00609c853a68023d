"""How fast a TensorRT engine is on this machine's GPU, and what the host adds to it."""

import time
from collections.abc import Callable
from typing import Any

from mtc_perception.bundle import Bundle, self_test_frame
from mtc_perception.engine import create_engine
from mtc_perception.engines.cuda import Event
from mtc_perception.engines.tensorrt import TensorRtEngine
from mtc_perception.images import SourceImage
from mtc_perception.perceiver import Perceiver
from mtc_perception.timing import percentiles

CAMERA_HEIGHT, CAMERA_WIDTH = 720, 1280
BLOCK = 20
"""Inferences between two events: back to back, so that the GPU never waits for the host."""


def measure(
    bundle: Bundle,
    precision: str | None,
    runs: int,
    tell: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, Any]:
    """Time the stored engine of a bundle, frame after frame, `runs` (at least BLOCK) of them.

    Returns JSON: engine, runs, images_per_s, host_overhead and latency_ms with the percentiles of
    `gpu` (copies and inference by the GPU's clock, a mean per block), `inference` (the same as the
    host sees it, from start to answer), and for a `CAMERA_WIDTH` x `CAMERA_HEIGHT` camera image
    `preprocess`, `decode` and `frame`, which is the whole way. `host_overhead` is what `inference`
    takes longer than `gpu`, as a part of that. Raises EngineError, BundleError.
    """
    engine, chosen = create_engine(bundle, "tensorrt", precision)
    assert isinstance(engine, TensorRtEngine)
    image = SourceImage(self_test_frame(CAMERA_HEIGHT, CAMERA_WIDTH), "rgb")
    times: dict[str, list[float]] = {
        name: [] for name in ("gpu", "inference", "preprocess", "decode", "frame")
    }
    with Perceiver(bundle, engine) as perceiver:
        for _ in range(BLOCK):  # clocks rise under load
            perceiver.perceive(image)
        for done in range(0, runs, BLOCK):
            times["gpu"].append(_block_ms(engine) / BLOCK)
            for _ in range(BLOCK):
                begin = time.perf_counter()
                took = perceiver.perceive(image).times
                times["frame"].append((time.perf_counter() - begin) * 1e3)
                times["preprocess"].append(took.preprocess_ms)
                times["inference"].append(took.inference_ms)
                times["decode"].append(took.decode_ms)
            tell(done + BLOCK, runs)
    found = {name: percentiles(values) for name, values in times.items()}
    gpu_ms, inference_ms, frame_ms = (found[name]["p50"] for name in ("gpu", "inference", "frame"))
    return {
        "engine": chosen,
        "runs": len(times["frame"]),
        "images_per_s": 1e3 / frame_ms,
        "host_overhead": inference_ms / gpu_ms - 1.0,
        "latency_ms": found,
    }


def _block_ms(engine: TensorRtEngine) -> float:
    """Milliseconds of the GPU's clock for a block of inferences."""
    begin, end = Event(), Event()
    begin.record(engine.stream)
    for _ in range(BLOCK):
        engine.start()
    end.record(engine.stream)
    engine.wait()
    return end.ms_since(begin)
