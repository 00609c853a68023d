"""The engine protocol, what every inference runtime offers the `Perceiver`, and the choice."""

import importlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from mtc_perception.core.bundle import Bundle, Precision, SelfTest, self_test_frame
from mtc_perception.core.images import SourceImage
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.util.errors import BundleError, EngineError, UserError, one_line

EngineChoice = Literal["auto", "tensorrt", "openvino", "onnxruntime"]

AUTO_ORDER = ("tensorrt", "openvino", "onnxruntime")
# Each module has `load(network, threads) -> Engine`; imported only when tried, since every
# runtime is an optional dependency.
_MODULES = {
    "tensorrt": "mtc_perception.engines.tensorrt.engine",
    "openvino": "mtc_perception.engines.openvino",
    "onnxruntime": "mtc_perception.engines.onnxruntime",
}
_WARM_UP_RUNS = 2
# Golden values below this are compared as if they were this large: relative differences of
# next to nothing say nothing.
_SELF_TEST_FLOOR = 0.02
# float16 has steps of half a pixel from 512 on.
_BOX_MARGIN_PX = 1.0


@dataclass(frozen=True, slots=True)
class Outputs:
    """Raw graph outputs of one inference, N images of height H and width W, K candidates.

    Views of the engine's own (possibly pinned) buffers, valid until the next `Engine.start`.
    """

    boxes: npt.NDArray[np.float32]
    """[N, K, 4] x1, y1, x2, y2 in network input pixels."""
    scores: npt.NDArray[np.float32]
    """[N, K] descending."""
    labels: npt.NDArray[np.integer]
    """[N, K]"""
    drivable: npt.NDArray[np.uint8]
    """[N, H, W] probability x 255."""
    lane: npt.NDArray[np.uint8]
    """[N, H, W] probability x 255."""


class Engine(Protocol):
    """One loaded network. Not thread-safe: one thread writes `input`, starts and waits."""

    name: str
    """`openvino`, `onnxruntime` or `tensorrt`."""
    precision: str
    """Precision that really runs: `fp32`, `fp16` or `int8`."""
    device: str
    """Human-readable device and runtime version."""
    input: npt.NDArray[np.uint8]
    """[N, H, W, 3] the engine's own (possibly pinned) input buffer; write before `start`."""

    def prepare(self, image: SourceImage, letterbox: Letterbox) -> None:
        """Make `image`, letterboxed, what the next `start` infers, in place of `input`.

        `input` may be overwritten. Raises ImageError or `cv2.error` if the image cannot be scaled
        or converted, and EngineError.
        """

    def start(self) -> None:
        """Begin inference of `input`, or of what was prepared since, without waiting.

        Raises EngineError.
        """

    def wait(self) -> Outputs:
        """Block until the inference begun by `start` is done. Raises EngineError."""

    def close(self) -> None:
        """Release the runtime's resources; the engine is unusable afterwards."""


@dataclass(frozen=True, slots=True)
class Network:
    """One variant of a bundle as an engine needs it: the graph and the contract it must keep."""

    model: bytes
    precision: Precision
    height: int
    width: int
    max_detections: int
    bundle: str = "BUNDLE"
    """Path of the bundle, for messages."""

    @classmethod
    def of(cls, bundle: Bundle, variant: str) -> "Network":
        """Read `variant` of `bundle`. Raises BundleError."""
        manifest = bundle.manifest
        return cls(
            model=bundle.model_bytes(variant),
            precision=next(v.precision for k, v in manifest.variants.items() if k == variant),
            height=manifest.input.height,
            width=manifest.input.width,
            max_detections=manifest.max_detections,
            bundle=str(bundle.path),
        )


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A graph input or output as a runtime reports it; None is an unknown dimension."""

    name: str
    dtype: str
    """NumPy's name of it."""
    shape: tuple[int | None, ...]


def check_tensors(
    network: Network, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]
) -> None:
    """Raise BundleError unless the graph has exactly the inputs and outputs of a bundle."""
    height, width, count = network.height, network.width, network.max_detections
    _check_side("input", inputs, {"image": (("uint8",), (height, width, 3))})
    _check_side(
        "output",
        outputs,
        {
            "boxes": (("float32",), (count, 4)),
            "scores": (("float32",), (count,)),
            "labels": (("int64", "int32"), (count,)),
            "drivable": (("uint8",), (height, width)),
            "lane": (("uint8",), (height, width)),
        },
    )


def allocate_outputs(network: Network, label_dtype: str) -> Outputs:
    """Buffers for the outputs of one image."""
    count, mask = network.max_detections, (1, network.height, network.width)
    return Outputs(
        boxes=np.zeros((1, count, 4), np.float32),
        scores=np.zeros((1, count), np.float32),
        labels=np.zeros((1, count), np.dtype(label_dtype)),
        drivable=np.zeros(mask, np.uint8),
        lane=np.zeros(mask, np.uint8),
    )


def load_engine(network: Network, name: str, threads: int | None = None) -> Engine:
    """Load `network` into the engine `name`, without testing what it computes.

    `threads` defaults to the physical cores this process may use. Raises EngineError if the
    engine is not available here, BundleError if the graph breaks its contract.
    """
    _check_offered(name)
    if threads is not None and threads < 1:
        raise EngineError(f"threads must be at least 1, got {threads}")
    try:
        engine: Engine = importlib.import_module(_MODULES[name]).load(network, threads)
    except UserError:
        raise
    except Exception as error:  # whatever a runtime's bindings do, another engine may work
        raise EngineError(one_line(error)) from error
    return engine


def run_self_test(engine: Engine) -> Outputs:
    """The outputs of `engine` for `self_test_frame`."""
    _, height, width, _ = engine.input.shape
    engine.input[0] = self_test_frame(height, width)
    engine.start()
    return engine.wait()


def measure_self_test(outputs: Outputs, tolerance: float = 0.05) -> SelfTest:
    """Golden values of `outputs`, those of a trusted engine for `self_test_frame`."""
    return SelfTest(
        drivable_mean=float(outputs.drivable.mean()) / 255.0,
        lane_mean=float(outputs.lane.mean()) / 255.0,
        top_score=float(outputs.scores.max()),
        tolerance=tolerance,
    )


def check_self_test(outputs: Outputs, golden: SelfTest, class_count: int) -> None:
    """Raise EngineError unless `outputs` are well-formed and agree with `golden`."""
    if not (np.isfinite(outputs.boxes).all() and np.isfinite(outputs.scores).all()):
        raise EngineError("self-test: boxes or scores are not finite numbers")
    if outputs.scores.min() < 0.0 or outputs.scores.max() > 1.0:
        raise EngineError("self-test: scores are not all within 0..1")
    if (np.diff(outputs.scores, axis=1) > 0.0).any():
        raise EngineError("self-test: scores are not in descending order")
    if outputs.labels.min() < 0 or outputs.labels.max() >= class_count:
        raise EngineError(f"self-test: labels are not all within the {class_count} classes")
    _check_boxes(outputs)
    measured = measure_self_test(outputs)
    for quantity in ("drivable_mean", "lane_mean", "top_score"):
        got, expected = getattr(measured, quantity), getattr(golden, quantity)
        if abs(got - expected) > golden.tolerance * max(expected, _SELF_TEST_FLOOR):
            raise EngineError(
                f"self-test: {quantity} is {got:.4f}, the bundle's own is {expected:.4f}"
                f" (tolerance {golden.tolerance:.0%})"
            )


def create_engine(
    bundle: Bundle,
    name: EngineChoice = "auto",
    precision: str | None = None,
    threads: int | None = None,
) -> tuple[Engine, str]:
    """Load the bundle's network into an engine, warm it up and test it.

    `auto` takes the first of `AUTO_ORDER` that runs here. `precision` (`fp32`, `fp16`, `int8`)
    defaults to the bundle's preference for the engine. Returns the engine and a sentence saying
    what was chosen and why. Raises EngineError if nothing can run the bundle and BundleError if
    the bundle breaks its contract or lacks what was asked for.
    """
    if name != "auto":
        _check_offered(name)
        try:
            engine, variant = _tested_engine(bundle, name, precision, threads)
        except EngineError as error:
            raise EngineError(f"{name}: {error}") from error
        return engine, f"{_described(engine, bundle, variant)}, as asked for"
    rejected: list[str] = []
    for candidate in AUTO_ORDER:
        try:
            engine, variant = _tested_engine(bundle, candidate, precision, threads)
        except (EngineError, BundleError) as error:
            rejected.append(f"{candidate}: {error}")
            continue
        why = f"; passed over {'; '.join(rejected)}" if rejected else ""
        return engine, f"{_described(engine, bundle, variant)}, chosen automatically{why}"
    raise EngineError(f"{bundle.path}: no engine runs it here: {'; '.join(rejected)}")


def _check_offered(name: str) -> None:
    if name not in _MODULES:
        raise EngineError(f"unknown engine {name!r}; choose auto, {', '.join(AUTO_ORDER)}")


def _tested_engine(
    bundle: Bundle, name: str, precision: str | None, threads: int | None
) -> tuple[Engine, str]:
    variant = bundle.variant_for(name, precision)
    engine = load_engine(Network.of(bundle, variant), name, threads)
    try:
        outputs = run_self_test(engine)
        _, height, width, _ = engine.input.shape
        frame = SourceImage(self_test_frame(height, width), "rgb")
        for _ in range(_WARM_UP_RUNS):
            # The way that a camera's images take must lead to the same.
            engine.prepare(frame, Letterbox.fit(height, width, height, width))
            engine.start()
            outputs = engine.wait()
        golden = next(test for key, test in bundle.manifest.self_test.items() if key == variant)
        check_self_test(outputs, golden, len(bundle.manifest.classes))
    except BaseException as error:
        with suppress(Exception):  # what failed may fail again
            engine.close()
        if not isinstance(error, Exception):
            raise
        # Whatever it is: another engine may work.
        raise EngineError(f"{bundle.path}, variant {variant}: {one_line(error)}") from error
    return engine, variant


def _check_boxes(outputs: Outputs) -> None:
    """Raise EngineError unless every scored box has its corners in order, inside the input."""
    height, width = outputs.drivable.shape[1:]
    x1, y1, x2, y2 = outputs.boxes[outputs.scores > 0.0].astype(np.float64).T
    margin = _BOX_MARGIN_PX
    if (x2 < x1 - margin).any() or (y2 < y1 - margin).any():
        raise EngineError("self-test: boxes have their corners in the wrong order")
    if (
        min(x1.min(initial=0.0), y1.min(initial=0.0)) < -margin
        or x2.max(initial=0.0) > width + margin
        or y2.max(initial=0.0) > height + margin
    ):
        raise EngineError(f"self-test: boxes are not all within the {width}x{height} input")


def _described(engine: Engine, bundle: Bundle, variant: str) -> str:
    asked = next(v.precision for k, v in bundle.manifest.variants.items() if k == variant)
    runs = f" as {engine.precision}" if engine.precision != asked else ""
    return f"{engine.name} ({engine.device}) running variant {variant}{runs}"


def _check_side(
    side: str,
    found: Sequence[TensorInfo],
    expected: dict[str, tuple[tuple[str, ...], tuple[int, ...]]],
) -> None:
    tensors = {tensor.name: tensor for tensor in found}
    if set(tensors) != set(expected):
        raise BundleError(
            f"the network's {side}s must be {', '.join(expected)}, they are {', '.join(tensors)}"
        )
    for name, (dtypes, shape) in expected.items():
        tensor = tensors[name]
        if (
            tensor.dtype not in dtypes
            or tensor.shape[1:] != shape
            or tensor.shape[0] not in (1, None)
        ):
            raise BundleError(
                f"the network's {side} {name} must be {' or '.join(dtypes)} {[1, *shape]},"
                f" it is {tensor.dtype} {list(tensor.shape)}"
            )
