"""What the player and the recorder are told, and what they tell."""

from dataclasses import dataclass, field
from pathlib import Path

from mtc_perception.replay.live.answers import RecordedFrame
from mtc_perception.replay.recordings.recording import Transport


@dataclass(frozen=True, slots=True)
class PlayerConfig:
    """What to play and how; the fields of `open_source` and more."""

    path: Path
    topic: str | None
    """Which camera of a bag."""
    fps: float | None
    seconds: float | None
    """Play only so much of the beginning; None is all."""
    repeat_s: float | None
    """Begin again until this much time has passed; None is once."""
    transport: Transport
    publish_topic: str
    """Base topic; compressed images go to `<publish_topic>/compressed`."""
    faithful: bool = False
    """Recorded stamps, /clock, and images as they are; else as a camera would now."""
    speed: float = 1.0
    """Of the recording's time, in faithful playing."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Sent while images are prepared; the rest of a long recording is read while it plays."""

    frames: int
    done: bool


@dataclass(frozen=True, slots=True)
class Matched:
    """Sent when the subscription is found."""


@dataclass(frozen=True, slots=True)
class Published:
    """One image on its way."""

    index: int
    """In the recording."""
    source_stamp_ns: int
    stamp_ns: int
    """Its header stamp."""
    published_ns: int
    """On the monotonic clock, which all processes of a machine share: wall clocks get corrected."""
    late_ms: float
    """Behind the schedule."""


@dataclass(frozen=True, slots=True)
class Played:
    """Sent at the end."""

    frames: list[Published]
    unreadable: int
    """Images left out because nobody could use them."""
    reason: str
    """Why the first of these cannot be read."""


@dataclass(slots=True, eq=False)
class Recording:
    """Sent at the end."""

    frames: dict[int, RecordedFrame] = field(default_factory=dict)
    """By image stamp in ns."""
    status: dict[str, dict[str, str]] = field(default_factory=dict)
    """The last /diagnostics of the node: values by the status's name behind the node's."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Sent when every output's publisher is found."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Answer to any word before the last: of how many images it is known how they ended."""

    ended: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Asks for the recording."""
