"""Image in, `Perception` out: preprocessing, engine and decoding of one network."""

from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
from typing_extensions import Self

from mtc_perception.core.bundle import Bundle, Thresholds, read_bundle
from mtc_perception.core.decode import decode_boxes, decode_mask
from mtc_perception.core.engine import Engine, EngineChoice
from mtc_perception.core.images import SourceImage
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.core.perception import Perception, StageTimes
from mtc_perception.engines.open import open_engine
from mtc_perception.util.errors import EngineError, ImageError, one_line


class Perceiver:
    """One network ready to perceive images of any size, one image at a time.

    `perceive` must run in one thread at a time. `thresholds` and `max_detections` may be
    replaced from any thread; an image sees either all old or all new thresholds.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        thresholds: Thresholds | None = None,
        *,
        engine_reason: str = "",
    ) -> None:
        self.bundle = bundle
        self.engine = engine
        self.engine_reason = engine_reason
        self.thresholds = thresholds or bundle.manifest.thresholds
        self.max_detections = bundle.manifest.max_detections

    @classmethod
    def open(
        cls,
        bundle_path: str | Path,
        engine: EngineChoice = "auto",
        *,
        precision: str | None = None,
        threads: int | None = None,
        thresholds: Thresholds | None = None,
    ) -> Self:
        """Read a bundle, load and test an engine for it. Raises BundleError and EngineError.

        The arguments are those of `open_engine`; its explanation becomes `engine_reason`.
        """
        bundle = read_bundle(bundle_path)
        chosen, reason = open_engine(bundle, engine, precision, threads)
        return cls(bundle, chosen, thresholds, engine_reason=reason)

    def perceive(self, image: SourceImage) -> Perception:
        """What the network sees in `image`.

        Raises ImageError if OpenCV cannot scale or convert the image, EngineError if the engine
        fails, whatever it raises.

        The result shares no memory with the image, the engine or any other result.
        """
        thresholds, max_detections = self.thresholds, self.max_detections
        begin = perf_counter()
        spec = self.bundle.manifest.input
        letterbox = Letterbox.fit(image.height, image.width, spec.height, spec.width)
        try:
            self.engine.prepare(image, letterbox)
            prepared = perf_counter()
            self.engine.start()
            outputs = self.engine.wait()
            inferred = perf_counter()
        except cv2.error as error:  # the image's fault, not the engine's
            raise ImageError(f"image cannot be scaled: {error.err}") from error
        except (ImageError, EngineError):
            raise
        except Exception as error:  # the bindings of the runtimes raise what they like
            raise EngineError(one_line(error)) from error
        boxes, scores, labels = decode_boxes(outputs, letterbox, thresholds.score, max_detections)
        drivable = decode_mask(outputs.drivable[0], letterbox, thresholds.drivable)
        lane = decode_mask(outputs.lane[0], letterbox, thresholds.lane)
        decoded = perf_counter()
        return Perception(
            boxes=boxes,
            scores=scores,
            labels=labels,
            drivable=drivable,
            lane=lane,
            times=StageTimes(
                preprocess_ms=(prepared - begin) * 1e3,
                inference_ms=(inferred - prepared) * 1e3,
                decode_ms=(decoded - inferred) * 1e3,
            ),
        )

    def close(self) -> None:
        """Release the engine; the perceiver is unusable afterwards."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
