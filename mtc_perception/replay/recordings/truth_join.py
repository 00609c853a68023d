"""Joins the images of a stream with their labels by stamp, holding back few of them."""

from collections import deque
from collections.abc import Iterator

from mtc_perception.replay.recordings.bag_files import Message
from mtc_perception.replay.recordings.frames import NS_PER_S, LabelledFrame, SourceFrame
from mtc_perception.replay.recordings.notes import Notes
from mtc_perception.replay.recordings.truth_topics import PartialTruth, TruthTopics
from mtc_perception.util.errors import ImageError

MOST_WAITING = 32
"""Images that wait for labels that are recorded after them."""
SURE_AFTER = 4
"""Images that wait although later labels have come already: recorded order is not exact."""
_MOST_EARLY = 128
"""Labels that wait for images that are recorded after them."""


class TruthJoin:
    """Takes images and label messages in recorded order, gives images with their labels."""

    def __init__(self, topics: TruthTopics, notes: Notes) -> None:
        self._topics = topics
        self._names = topics.names()
        self._notes = notes
        self._waiting: deque[SourceFrame] = deque()
        self._parts: dict[int, PartialTruth] = {}
        self._come: dict[int, set[str]] = {}
        self._latest_ns = dict.fromkeys(self._names, -1)
        self._labels = self._joined = 0
        self._first_ns: int | None = None

    def image(self, frame: SourceFrame) -> Iterator[LabelledFrame]:
        """Add an image; gives those that need not wait any longer."""
        self._first_ns = frame.stamp_ns if self._first_ns is None else self._first_ns
        self._waiting.append(frame)
        yield from self._ready()

    def label(self, message: Message) -> Iterator[LabelledFrame]:
        """Add labels; gives the images that need not wait any longer."""
        if message.content is None:
            self._notes.add("unreadable label", message.problem)
            return
        stamp = message.content.header.stamp
        stamp_ns = int(stamp.sec) * NS_PER_S + int(stamp.nanosec)
        part = self._parts.get(stamp_ns, PartialTruth())
        try:
            part = part.with_message(self._topics, message.topic, message.content)
        except ImageError as error:
            self._notes.add("unreadable label", f"{message.topic}: {error}")
            return
        self._labels += stamp_ns not in self._parts
        self._parts[stamp_ns] = part
        self._come.setdefault(stamp_ns, set()).add(message.topic)
        self._latest_ns[message.topic] = max(self._latest_ns[message.topic], stamp_ns)
        if len(self._parts) > _MOST_EARLY:
            self._forget(next(iter(self._parts)))
        yield from self._ready()

    def rest(self) -> Iterator[LabelledFrame]:
        """The images that still wait, at the end; notes labels without an image."""
        while self._waiting:
            yield self._release()
        for stamp_ns in list(self._parts):
            self._forget(stamp_ns)
        if self._labels and not self._joined and self._first_ns is not None:
            self._notes.add(
                "labels fit no image",
                f"none of {self._labels} labelled stamps is that of an image "
                f"(the first image's is {_seconds(self._first_ns)})",
            )

    def _ready(self) -> Iterator[LabelledFrame]:
        while self._waiting and self._decided(self._waiting[0]):
            yield self._release()

    def _decided(self, frame: SourceFrame) -> bool:
        if len(self._waiting) > MOST_WAITING:
            return True
        come = self._come.get(frame.stamp_ns, set())
        missing = [name for name in self._names if name not in come]
        if not missing:
            return True
        passed = all(self._latest_ns[name] > frame.stamp_ns for name in missing)
        return passed and len(self._waiting) > SURE_AFTER

    def _release(self) -> LabelledFrame:
        frame = self._waiting.popleft()
        part = self._parts.pop(frame.stamp_ns, None)
        self._come.pop(frame.stamp_ns, None)
        self._joined += part is not None
        return LabelledFrame(frame, None if part is None else part.complete())

    def _forget(self, stamp_ns: int) -> None:
        del self._parts[stamp_ns], self._come[stamp_ns]
        self._notes.add(
            "label without image", f"stamp {_seconds(stamp_ns)} is that of no image nearby"
        )


def _seconds(stamp_ns: int) -> str:
    return f"{stamp_ns // NS_PER_S}.{stamp_ns % NS_PER_S:09d}"
