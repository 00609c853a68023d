"""The engine protocol: what every inference runtime offers the `Perceiver`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from mtc_perception.core.bundle import Bundle, EngineName, Precision
from mtc_perception.core.images import SourceImage
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.core.onnx_file import check_self_contained
from mtc_perception.core.tasks import TASKS, Task, outputs_of
from mtc_perception.util.errors import BundleError

EngineChoice = Literal["auto", EngineName]


@dataclass(frozen=True, slots=True)
class Outputs:
    """Raw graph outputs of one inference, N images of height H and width W, K candidates.

    Views of the engine's own (possibly pinned) buffers, valid until the next `Engine.start`.
    A network that lacks a task has no candidates (K is 0), or None for the mask.
    """

    boxes: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((1, 0, 4), np.float32))
    """[N, K, 4] x1, y1, x2, y2 in network input pixels."""
    scores: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((1, 0), np.float32))
    """[N, K] descending."""
    labels: npt.NDArray[np.integer] = field(default_factory=lambda: np.zeros((1, 0), np.int32))
    """[N, K]"""
    drivable: npt.NDArray[np.uint8] | None = None
    """[N, H, W] probability x 255."""
    lane: npt.NDArray[np.uint8] | None = None
    """[N, H, W] probability x 255."""


class Engine(Protocol):
    """One loaded network. Not thread-safe: one thread writes `input`, starts and waits.

    It may be loaded and closed by others, but not while that thread is in one of its methods.
    """

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
    tasks: Sequence[Task] = TASKS
    bundle: str = "BUNDLE"
    """Path of the bundle, for messages."""

    def __post_init__(self) -> None:
        """Raises BundleError for a graph that is no ONNX, or whose weights lie elsewhere."""
        check_self_contained(self.model)

    @classmethod
    def of(cls, bundle: Bundle, variant: str) -> "Network":
        """Read `variant` of `bundle`. Raises BundleError."""
        manifest, entry = bundle.manifest, bundle.variant(variant)
        model = bundle.model_bytes(variant)
        try:
            return cls(
                model=model,
                precision=entry.precision,
                height=manifest.input.height,
                width=manifest.input.width,
                max_detections=manifest.max_detections,
                tasks=tuple(manifest.tasks),
                bundle=str(bundle.path),
            )
        except BundleError as error:
            raise BundleError(f"{bundle.path}: {entry.file}: {error}") from error


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
    contract = {
        "boxes": (("float32",), (count, 4)),
        "scores": (("float32",), (count,)),
        "labels": (("int64", "int32"), (count,)),
        "drivable": (("uint8",), (height, width)),
        "lane": (("uint8",), (height, width)),
    }
    _check_side("input", inputs, {"image": (("uint8",), (height, width, 3))})
    _check_side("output", outputs, {name: contract[name] for name in outputs_of(network.tasks)})


def allocate_outputs(outputs: Sequence[TensorInfo]) -> dict[str, npt.NDArray[Any]]:
    """A buffer for each output of one image, in the order of `Outputs`; `check_tensors` has seen to
    it that nothing but the batch is left open."""
    shapes = {one.name: (1, *(size or 0 for size in one.shape[1:])) for one in outputs}
    dtypes = {one.name: np.dtype(one.dtype) for one in outputs}
    return {
        name: np.zeros(shapes[name], dtypes[name]) for name in outputs_of(TASKS) if name in shapes
    }


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
