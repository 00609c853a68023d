"""Image in, `Perception` out: preprocessing, engine and decoding of one network."""

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
from typing_extensions import Self

from mtc_perception.core.bundle import Bundle, Limits, read_bundle
from mtc_perception.core.engine import Engine, EngineChoice
from mtc_perception.core.images import SourceImage
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.core.perception import (
    Perception,
    StageTimes,
    check_outputs,
    decode_boxes,
    decode_mask,
)
from mtc_perception.engines.load import CPU_ENGINES
from mtc_perception.engines.open import open_engine
from mtc_perception.util.deadline import Deadline
from mtc_perception.util.errors import EngineError, ImageError, one_line, printable


@dataclass(frozen=True, slots=True)
class Selection:
    """Which network is to run, and on what."""

    bundle: Path
    engine: EngineChoice = "auto"
    precision: str | None = None
    """None takes the fastest variant within tolerance."""
    threads: int | None = None
    """None lets the engine decide."""
    trusted_keys: tuple[Path, ...] = ()
    """PEM files of public keys, one of which must have signed the bundle; none: no matter."""
    fallback: bool = False
    """Whether a CPU engine may take over when the engine fails. What it would need of the bundle
    stays in memory: by then the bundle may be another one, or gone."""

    def __str__(self) -> str:
        precision = f" as {self.precision}" if self.precision else ""
        return printable(f"{self.bundle} on {self.engine}{precision}")


class Perceiver:
    """One network ready to perceive images of any size, one image at a time.

    `perceive` must run in one thread at a time.
    """

    def __init__(
        self, bundle: Bundle, engine: Engine, why: str = "", warm_up_s: float = 0.0
    ) -> None:
        """`why` is a sentence saying which engine was chosen and why; `warm_up_s` is what its
        slowest inference took before."""
        self.bundle = bundle
        self.engine = engine
        self.why = why
        self.warm_up_s = warm_up_s
        self.input_size = bundle.manifest.input.size
        self.in_engine = False
        """Whether the engine computes. Whoever sees it hang here may blame it, and not the image
        that is scaled before or the answer that is decoded after."""

    @classmethod
    def open(
        cls,
        bundle: Path | str,
        engine: EngineChoice = "auto",
        precision: str | None = None,
        threads: int | None = None,
    ) -> Self:
        """The network of a bundle, loaded and tested; to be closed, or used as a context manager.

        The options mean what they do in `Selection`. Raises BundleError and EngineError.
        """
        opened = open_perceiver(Selection(Path(bundle), engine, precision, threads))
        return cls(opened.bundle, opened.engine, opened.why, opened.warm_up_s)

    def perceive(self, image: SourceImage, limits: Limits | None = None) -> Perception:
        """What the network sees in `image`, within `limits` or else those of the bundle.

        Raises ImageError if OpenCV cannot scale or convert the image, or masks to its size,
        MemoryError if it is too large, EngineError if the engine fails, whatever it raises, or if
        its outputs make no sense.

        The result shares no memory with the image, the engine or any other result.
        """
        limits = limits or self.bundle.manifest.limits
        begin = perf_counter()
        letterbox = Letterbox.fit(image.height, image.width, *self.input_size)
        try:
            self.engine.prepare(image, letterbox)
            prepared = perf_counter()
            self.in_engine = True
            try:
                self.engine.start()
                outputs = self.engine.wait()
            finally:
                self.in_engine = False
            inferred = perf_counter()
        except cv2.error as error:  # the image's fault, not the engine's
            raise ImageError(f"image cannot be scaled: {error.err}") from error
        except (ImageError, EngineError, MemoryError):
            raise
        except Exception as error:  # the bindings of the runtimes raise what they like
            raise EngineError(one_line(error)) from error
        check_outputs(outputs, len(self.bundle.manifest.classes), self.input_size[:2])
        boxes, scores, labels = decode_boxes(
            outputs, letterbox, limits.thresholds.score, limits.max_detections
        )
        try:
            drivable, lane = (
                None if output is None else decode_mask(output[0], letterbox, threshold)
                for output, threshold in (
                    (outputs.drivable, limits.thresholds.drivable),
                    (outputs.lane, limits.thresholds.lane),
                )
            )
        except cv2.error as error:  # it is too large for the memory left
            raise ImageError(f"masks cannot be scaled to the image: {error.err}") from error
        decoded = perf_counter()
        return Perception(
            size=(image.height, image.width),
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
            tasks=tuple(self.bundle.manifest.tasks),
        )

    def close(self) -> None:
        """Release the engine; the perceiver is unusable afterwards."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def open_perceiver(selection: Selection, deadline: Deadline | None = None) -> Perceiver:
    """Read the bundle, load an engine for it and test it.

    Raises BundleError and EngineError; what the `deadline` is good for, `open_engine` says.
    """
    bundle = read_bundle(selection.bundle, selection.trusted_keys)
    if selection.fallback:
        variants = bundle.manifest.variants.items()
        bundle = bundle.holding(key for key, one in variants if {*one.engines} & {*CPU_ENGINES})
    opened = open_engine(bundle, selection.engine, selection.precision, selection.threads, deadline)
    return Perceiver(bundle, opened.engine, opened.why, opened.warm_up_s)
