"""The engine protocol: what every inference runtime offers the `Perceiver`."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


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

    def start(self) -> None:
        """Begin inference of `input` without waiting. Raises EngineError."""

    def wait(self) -> Outputs:
        """Block until the inference begun by `start` is done. Raises EngineError."""

    def close(self) -> None:
        """Release the runtime's resources; the engine is unusable afterwards."""
