"""Lock-step replay: every image of a stream, one after the other, none lost, however long it takes.

Reading and decoding run ahead of the network and judging behind it, each in a thread of its own and
each in order: what is computed does not depend on how the threads take turns.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol, TypeVar

from mtc_perception.core.images import SourceImage
from mtc_perception.core.perception import Perception
from mtc_perception.replay.recordings.frames import BrokenPixels, LabelledFrame
from mtc_perception.replay.records.record import Status
from mtc_perception.runtime.perceiver import Perceiver
from mtc_perception.util.errors import ImageError

STAGES = ("read", "preprocess", "inference", "decode", "end_to_end")
"""`read`: from the message, or the image file's bytes, to pixels; `end_to_end` is the sum of the
others. What only a replay does is in none of them: finding images and labels in files, judging."""
_AHEAD, _BEHIND = 3, 3
"""Images in each queue: enough to even out, few enough to forget about their memory."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One image and what became of it."""

    labelled: LabelledFrame
    image: SourceImage | None
    """None where it cannot be decoded."""
    perception: Perception | None
    reference: Perception | None
    status: Status
    reason: str
    latency_ms: dict[str, float]
    """By `STAGES`; empty without an answer."""


class Judging(Protocol):
    """What is done with each image, in order."""

    def __call__(self, seen: Seen) -> None: ...


def replay_frames(
    frames: Iterable[LabelledFrame],
    perceiver: Perceiver,
    reference: Perceiver | None,
    judge: Judging,
    tick: Callable[[], None],
) -> None:
    """Perceive every image and have it judged.

    `judge` is called from another thread, one image at a time, `tick` from this one after each
    image. Raises what reading, the engine or `judge` raise; then no later image is judged.
    """
    with ThreadPoolExecutor(1, "read") as reading, ThreadPoolExecutor(1, "judge") as judging:
        judged: deque[Future[None]] = deque()
        try:
            for loaded in _ahead(reading, _loaded(frames)):
                seen = _perceived(loaded, perceiver, reference)
                judged.append(judging.submit(judge, seen))
                if len(judged) > _BEHIND:
                    judged.popleft().result()
                tick()
            while judged:
                judged.popleft().result()
        finally:
            for future in judged:
                future.cancel()


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded:
    """An image of the recording, decoded where that is possible."""

    labelled: LabelledFrame
    image: SourceImage | None
    reason: str
    read_ms: float


def _loaded(frames: Iterable[LabelledFrame]) -> Iterator[_Loaded]:
    for labelled in frames:
        image, reason = None, ""
        begin = perf_counter()
        try:
            image = labelled.frame.pixels.decode()
        except ImageError as error:
            reason = str(error)
        yield _Loaded(labelled, image, reason, (perf_counter() - begin) * 1e3)


def _perceived(loaded: _Loaded, perceiver: Perceiver, reference: Perceiver | None) -> Seen:
    labelled, image = loaded.labelled, loaded.image
    if image is None:
        broken = isinstance(labelled.frame.pixels, BrokenPixels)
        status: Status = "unreadable" if broken else "malformed"
        return Seen(labelled, None, None, None, status, loaded.reason, {})
    try:
        perception = perceiver.perceive(image)
        other = None if reference is None else reference.perceive(image)
    except ImageError as error:
        return Seen(labelled, image, None, None, "malformed", str(error), {})
    times = perception.times
    latency_ms = {
        "read": loaded.read_ms,
        "preprocess": times.preprocess_ms,
        "inference": times.inference_ms,
        "decode": times.decode_ms,
    }
    latency_ms["end_to_end"] = sum(latency_ms.values())
    return Seen(labelled, image, perception, other, "processed", "", latency_ms)


def _ahead(pool: ThreadPoolExecutor, items: Iterator[T]) -> Iterator[T]:
    """The items, some of them computed by `pool` before they are asked for."""
    end = object()
    pending = deque(pool.submit(next, items, end) for _ in range(_AHEAD))
    try:
        while (item := pending.popleft().result()) is not end:
            pending.append(pool.submit(next, items, end))
            yield item  # type: ignore[misc]
    finally:
        for future in pending:
            future.cancel()
