"""Calibration: what the vehicle's network would see, and the ranges of its activations there."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader
from onnxruntime.quantization.calibrate import MinMaxCalibrater, TensorsData

from mtc_perception.core.images import SourceImage
from mtc_perception.core.input_size import InputSize
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.datasets.layout import Sample, read_image

Frames = Sequence[npt.NDArray[np.uint8]]
"""Network inputs, each uint8 [1, H, W, 3] RGB."""


def calibration_frames(
    samples: Sequence[Sample], size: InputSize
) -> Iterator[npt.NDArray[np.uint8]]:
    """Images of samples through the vehicle's letterbox, uint8 [1, H, W, 3] each.

    Raises LayoutError for a file that does not decode.
    """
    for sample in samples:
        pixels = read_image(sample.image_path)
        frame = np.empty((1, size.height, size.width, 3), np.uint8)
        letterbox = Letterbox.fit(pixels.shape[0], pixels.shape[1], *size)
        letterbox.write(SourceImage(pixels, "rgb"), frame[0])
        yield frame


class _Reader(CalibrationDataReader):
    def __init__(self, frames: Frames) -> None:
        self._frames = iter(frames)

    def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
        """The next input, or None after the last."""
        frame = next(self._frames, None)
        return None if frame is None else {"image": frame}


def activation_ranges(model: onnx.ModelProto, frames: Frames, symmetric: bool) -> TensorsData:
    """Least and greatest value of every float tensor over all frames.

    Rare peaks are what detections are made of, so nothing is cut off. `symmetric`: from minus to
    plus the greatest absolute value.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        onnx.save(model, path)
        calibrator = MinMaxCalibrater(
            path, augmented_model_path=str(Path(folder, "augmented.onnx")), symmetric=symmetric
        )
        calibrator.augment_graph()
        calibrator.create_inference_session()
        calibrator.collect_data(_Reader(frames))
        return calibrator.compute_data()
