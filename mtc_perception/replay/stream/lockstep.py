"""Lock-step replay: every image of a stream, one after the other, none lost, however long it takes.

Images are read, decoded, perceived and judged each ahead of the next, in threads of their own and
in order: what is computed does not depend on how the threads take turns.
"""

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np
import numpy.typing as npt

from mtc_perception.core.bundle import Limits
from mtc_perception.core.images import SourceImage
from mtc_perception.core.input_size import InputSize
from mtc_perception.core.letterbox import to_rgb
from mtc_perception.core.perception import Perception
from mtc_perception.replay.recordings.recording import BrokenPixels, LabelledFrame
from mtc_perception.replay.records.record import Status
from mtc_perception.runtime.perceiver import Perceiver
from mtc_perception.util.errors import ImageError
from mtc_perception.util.read_ahead import ReadAhead, map_ahead

STAGES = ("read", "preprocess", "inference", "decode", "end_to_end")
"""`read`: from the message, or the image file's bytes, to pixels; `end_to_end` is the sum of the
others. What only a replay does is in none of them: finding images and labels in files, judging."""
_QUEUED = 2
"""Images between two threads: enough to even out, few enough to forget about their memory."""
_DECODERS = 2
"""Threads that decode, so that no network waits for a single one."""


@dataclass(frozen=True, slots=True, eq=False)
class ReplayedImage:
    """One image and what became of it."""

    labelled: LabelledFrame
    image: SourceImage | None
    """None where it cannot be decoded; perhaps with fewer pixels than the image has."""
    perception: Perception | None
    reference: Perception | None
    status: Status
    reason: str
    latency_ms: dict[str, float]
    """By `STAGES`; empty without an answer."""

    def rgb(self) -> npt.NDArray[np.uint8]:
        """The whole image, uint8 [H, W, 3]. Only where it can be decoded."""
        assert self.image is not None
        whole = self.image.full_size is None
        return to_rgb(self.image if whole else self.labelled.frame.pixels.decode())


def replay_frames(
    frames: Iterable[LabelledFrame],
    perceiver: Perceiver,
    limits: Limits,
    reference: Perceiver | None,
) -> Generator[ReplayedImage, None, None]:
    """Every image as it is perceived within `limits`; to be closed where it is left early.

    `reference` keeps to its own limits. Raises what reading and the engine raise, in its place.
    """
    with (
        ThreadPoolExecutor(_DECODERS, "decoder") as pool,
        ReadAhead(
            map_ahead(pool, partial(_decoded, fit=perceiver.input_size), frames, _DECODERS), _QUEUED
        ) as decoded,
        ReadAhead((_seen(one, perceiver, limits, reference) for one in decoded), _QUEUED) as seen,
    ):
        yield from seen


@dataclass(frozen=True, slots=True, eq=False)
class _Decoded:
    """An image of the recording, decoded where that is possible."""

    labelled: LabelledFrame
    image: SourceImage | None
    reason: str
    read_ms: float


def _decoded(labelled: LabelledFrame, fit: InputSize) -> _Decoded:
    image, reason = None, ""
    begin = perf_counter()
    try:
        image = labelled.frame.pixels.decode(fit)
    except ImageError as error:
        reason = str(error)
    return _Decoded(labelled, image, reason, (perf_counter() - begin) * 1e3)


def _seen(
    decoded: _Decoded, perceiver: Perceiver, limits: Limits, reference: Perceiver | None
) -> ReplayedImage:
    labelled, image = decoded.labelled, decoded.image
    if image is None:
        broken = isinstance(labelled.frame.pixels, BrokenPixels)
        status: Status = "unreadable" if broken else "malformed"
        return ReplayedImage(labelled, None, None, None, status, decoded.reason, {})
    try:
        perception = perceiver.perceive(image, limits)
        other = None
        if reference is not None:
            same = reference.input_size == perceiver.input_size
            other = reference.perceive(
                image if same else labelled.frame.pixels.decode(reference.input_size)
            )
    except ImageError as error:
        return ReplayedImage(labelled, image, None, None, "malformed", str(error), {})
    times = perception.times
    latency_ms = {
        "read": decoded.read_ms,
        "preprocess": times.preprocess_ms,
        "inference": times.inference_ms,
        "decode": times.decode_ms,
    }
    latency_ms["end_to_end"] = sum(latency_ms.values())
    return ReplayedImage(labelled, image, perception, other, "processed", "", latency_ms)
