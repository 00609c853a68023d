"""How fast a TensorRT engine is on this machine's GPU, and what the host adds to it."""

import time
from collections.abc import Callable
from typing import Any

from mtc_perception.core.bundle import Bundle
from mtc_perception.core.images import SourceImage
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.core.self_test import self_test_frame
from mtc_perception.core.timing import percentiles
from mtc_perception.engines.open import open_engine
from mtc_perception.engines.tensorrt.cuda import ANSWER_S, Event
from mtc_perception.engines.tensorrt.engine import TensorRtEngine
from mtc_perception.engines.tensorrt.inspect import count_precisions
from mtc_perception.runtime.perceiver import Perceiver
from mtc_perception.util.errors import EngineError

CAMERA_HEIGHT, CAMERA_WIDTH = 720, 1280
BLOCK = 20
"""Images that are measured in one way before it is the next one's turn."""


def measure(
    bundle: Bundle,
    precision: str | None,
    runs: int,
    tell: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, Any]:
    """Time the stored engine of a bundle on `runs` (at least BLOCK) camera images.

    Returns JSON: engine, runs, images_per_s, host_overhead, layers and latency_ms, which has the
    percentiles for an image of `CAMERA_WIDTH` x `CAMERA_HEIGHT` of

    - `prepare`: from the image to the network's input on the device, waited for (where the
      letterbox is the CPU's, the input's copy belongs to `answer` instead),
    - `engine`: inference and the outputs' copy by the GPU's clock, a mean per block,
    - `answer`: the same as the host sees it, from start to the outputs,
    - `decode`: from the outputs to what the image shows,
    - `frame`: the whole way, where nothing waits for `prepare`.

    `host_overhead` is what `answer` takes longer than `engine`, as a part of that, at the median;
    `images_per_s` is frames one after another. `layers` is how many run in each precision, or why
    that is not known. Raises EngineError, BundleError.
    """
    engine, _, chosen, _ = open_engine(bundle, "tensorrt", precision)
    assert isinstance(engine, TensorRtEngine)
    image = SourceImage(self_test_frame(CAMERA_HEIGHT, CAMERA_WIDTH), "rgb")
    letterbox = Letterbox.fit(CAMERA_HEIGHT, CAMERA_WIDTH, *bundle.manifest.input.size)
    times: dict[str, list[float]] = {
        name: [] for name in ("prepare", "engine", "answer", "decode", "frame")
    }
    with Perceiver(bundle, engine) as perceiver:
        for _ in range(BLOCK):  # clocks rise under load
            perceiver.perceive(image)
        for done in range(0, runs, BLOCK):
            for _ in range(BLOCK):
                begin = time.perf_counter()
                took = perceiver.perceive(image).times
                times["frame"].append((time.perf_counter() - begin) * 1e3)
                times["decode"].append(took.decode_ms)
            for _ in range(BLOCK):
                prepare_ms, answer_ms = _apart_ms(engine, image, letterbox)
                times["prepare"].append(prepare_ms)
                times["answer"].append(answer_ms)
            times["engine"].append(engine_ms(engine))
            tell(done + BLOCK, runs)
        layers = _layers(engine)
    found = {name: percentiles(values) for name, values in times.items()}
    return {
        "engine": chosen,
        "runs": len(times["frame"]),
        "images_per_s": 1e3 * len(times["frame"]) / sum(times["frame"]),
        "host_overhead": found["answer"]["p50"] / found["engine"]["p50"] - 1.0,
        "layers": layers,
        "latency_ms": found,
    }


def _apart_ms(
    engine: TensorRtEngine, image: SourceImage, letterbox: Letterbox
) -> tuple[float, float]:
    """Milliseconds of the host's clock for preparing an image, and for its inference."""
    begin = time.perf_counter()
    engine.prepare(image, letterbox)
    engine.stream.synchronise()  # else the copy and the letterbox would count as inference
    prepared = time.perf_counter()
    engine.start()
    engine.wait()
    return (prepared - begin) * 1e3, (time.perf_counter() - prepared) * 1e3


def engine_ms(engine: TensorRtEngine) -> float:
    """Milliseconds of the GPU's clock for an inference, of one after another without a gap."""
    begin, end = Event(), Event()
    engine.launch()  # while this one runs the host gets ahead, and the GPU never waits for it
    begin.record(engine.stream)
    for _ in range(BLOCK):
        engine.launch()
    end.record(engine.stream)
    end.wait((1 + BLOCK) * ANSWER_S)
    return end.ms_since(begin) / BLOCK


def _layers(engine: TensorRtEngine) -> dict[str, int] | str:
    try:
        return count_precisions(engine.details())
    except EngineError as error:
        return str(error)
