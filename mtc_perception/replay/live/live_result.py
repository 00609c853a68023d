"""What a live run was, and everything that came of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mtc_perception.core.perception import Perception, StageTimes
from mtc_perception.core.timing import percentiles
from mtc_perception.replay.live.player import Published
from mtc_perception.replay.live.recorder import AnswerReader, Recorded, RecordedFrame
from mtc_perception.replay.live.reel import LiveConfig
from mtc_perception.replay.recordings.recording import SourceInfo
from mtc_perception.runtime.frames import STAGES

CAMERA = "front"
"""Name that the node knows its one camera by."""

# On the node's ROS clock: with /clock this is the recording's time, and known to 10 ms only.
_ROS_STAGES = ("receive", "end_to_end")

Outcome = Literal["processed", "dropped", "stale", "malformed"]


@dataclass(frozen=True, slots=True)
class Usage:
    """The node's process at one moment of playing."""

    since_start_s: float
    resident_mib: float
    cpu_s: float


@dataclass(frozen=True, slots=True, eq=False)
class LiveResult:
    """What went in, what came out, and what the node says of itself."""

    config: LiveConfig
    source: SourceInfo
    published: list[Published]
    recorded: Recorded
    answers: AnswerReader
    """To be read while the folder of the run is there, and to be closed."""
    usage: list[Usage]
    unreadable: int
    """Images of the recording that could not be decoded, and so were not played."""
    unreadable_reason: str
    ready_s: float
    """From the start of the node's process until it was active and found."""

    @property
    def engine(self) -> dict[str, str]:
        """The node's engine status: engine, device, precision, why, degraded, ..."""
        return self.recorded.status["engine"]

    def frame(self, published: Published) -> RecordedFrame | None:
        """The times of an image whose every output arrived; None for all others."""
        frame = self.recorded.frames.get(published.stamp_ns)
        return frame if frame is not None and frame.complete else None

    def perception(self, published: Published, classes: Sequence[str]) -> Perception | None:
        """The results of an image; None without, or if they were not kept.

        `classes` are the bundle's.
        """
        frame = self.frame(published)
        if frame is None or frame.offset is None or frame.times is None:
            return None
        times = frame.times
        return self.answers.read(frame.offset).perception(
            classes, StageTimes(times.preprocess, times.inference, times.decode)
        )

    def outcome(self, published: Published) -> tuple[Outcome, str]:
        """How an image ended, and why.

        Processed are those whose every output arrived here; stale and malformed those that the node
        refused; dropped are the others, wherever they were lost: in the node's slot or on the way
        to or from it.
        """
        frame = self.recorded.frames.get(published.stamp_ns)
        if frame is not None and frame.complete:
            return "processed", ""
        if frame is not None and frame.rejected:
            kind, _, reason = frame.rejected.partition(": ")
            return ("stale" if kind == "stale" else "malformed"), reason
        return "dropped", "the node never answered"

    def counts(self) -> dict[str, int]:
        """`frames_in` and how they ended."""
        ended = Counter(self.outcome(one)[0] for one in self.published)
        return {
            "frames_in": len(self.published),
            "frames_processed": ended["processed"],
            "frames_dropped": ended["dropped"],
            "frames_stale": ended["stale"],
            "frames_malformed": ended["malformed"],
            "frames_received_by_node": int(self.recorded.status[CAMERA]["frames_in"]),
        }

    def latency_ms(self, published: Published) -> float:
        """From publishing the image to the last output's arrival; NaN without an answer."""
        frame = self.frame(published)
        return np.nan if frame is None else (frame.last_arrival_ns - published.published_ns) / 1e6

    def stages_ms(self, published: Published) -> dict[str, float]:
        """Where the time of an answered image went; empty for all others.

        The node's own stages, and `end_to_end` as seen from here. `published` is the node's own end
        to end: image stamp to its last publish call.
        """
        frame = self.frame(published)
        if frame is None or frame.times is None:
            return {}
        own = {
            "published" if stage == "end_to_end" else stage: getattr(frame.times, stage)
            for stage in STAGES
            if not (self.config.faithful and stage in _ROS_STAGES)
        }
        return own | {"end_to_end": self.latency_ms(published)}

    def latencies_ms(self) -> dict[str, dict[str, float]]:
        """Percentiles of `stages_ms`."""
        rows = [row for one in self.published if (row := self.stages_ms(one))]
        names = rows[0] if rows else {"end_to_end": 0.0}
        return {stage: percentiles(row[stage] for row in rows) for stage in names}
