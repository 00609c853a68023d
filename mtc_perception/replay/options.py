"""The options of a replay, each declared here alone: type, bounds, default, words, flag.

A field of `Recording` or `ReplayOptions` is a key of a scenario file by its own name and an option
of `mtc-replay evaluate` by its `Flag`. It is read wherever the model went: a `StreamTask` carries
both to other processes and machines, a live run to the player.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo

from mtc_perception.core.bundle import Precision
from mtc_perception.core.engine import EngineChoice
from mtc_perception.replay.recordings.bag_labels import TruthTopics
from mtc_perception.replay.recordings.recording import FrameSource, Transport
from mtc_perception.replay.recordings.sources import open_source
from mtc_perception.runtime.perceiver import Selection
from mtc_perception.util.strict import Strict

Mode = Literal["lockstep", "live"]


@dataclass(frozen=True, slots=True)
class Flag:
    """How an option is given in a shell."""

    panel: str | None = None
    """Under which heading it is explained."""
    names: tuple[str, ...] = ()
    """By default `--` and the name of the field."""
    stands_for: object = None
    """The value that the flag alone means; None: the value follows it."""


RECORDING, LABELS, NETWORK, LIVE = Flag("Recording"), Flag("Labels"), Flag("Network"), Flag("Live")


def _rooted(path: Path, info: ValidationInfo) -> Path:
    root: Path = (info.context or {}).get("root") or Path.cwd()
    return root / path


RootedPath = Annotated[Path, AfterValidator(_rooted)]
"""Absolute; a relative one begins at the `root` of the validation's context, or here."""


class Recording(Strict):
    """A recording, or one camera of it."""

    path: RootedPath
    """A bag, a video or an image folder."""
    topics: Annotated[
        tuple[str, ...],
        Flag("Recording", ("--topic",)),
        Field(description="Camera topic of a bag that has several; may be repeated."),
    ] = ()
    truth: Annotated[TruthTopics | None, LABELS] = None
    """Topics of the labels in a bag; None: looked for there."""
    labels: Annotated[
        RootedPath | None,
        LABELS,
        Field(
            description="Data set with the labels, or its ROOT/images/SPLIT, in place of those in "
            "the recording; matched by stamp or name."
        ),
    ] = None
    fps: Annotated[
        float | None,
        RECORDING,
        Field(gt=0, description="Frame rate of image folders (30), or to take a video at."),
    ] = None

    def open(self) -> FrameSource:
        """Open it, by its first topic if any is named. Raises SourceError."""
        return open_source(self.path, next(iter(self.topics), None), self.fps, self.truth)


class ReplayOptions(Strict):
    """How every stream of a run is replayed."""

    bundle: Annotated[
        RootedPath,
        Flag("Network", ("--bundle", "-b")),
        Field(description="Network to run."),
    ]
    engine: Annotated[EngineChoice, NETWORK, Field(description="Inference runtime.")] = "auto"
    precision: Annotated[
        Precision | None, NETWORK, Field(description="Default: the fastest within tolerance.")
    ] = None
    threads: Annotated[int | None, NETWORK, Field(ge=1, description="Threads of a CPU engine.")] = (
        None
    )
    reference: Annotated[
        RootedPath | None,
        LABELS,
        Field(description="Bundle to agree with, as a student with its teacher."),
    ] = None
    seconds: Annotated[
        float | None,
        RECORDING,
        Field(gt=0, description="Only so much of the beginning of each recording."),
    ] = None
    mode: Annotated[
        Mode,
        Flag("Live", ("--live",), stands_for="live"),
        Field(
            description="Play to the real node over DDS, as the recording went, and see what "
            "comes back."
        ),
    ] = "lockstep"
    rate: Annotated[float, LIVE, Field(gt=0, description="Playing speed, 1 is real time.")] = 1.0
    max_frame_age_ms: Annotated[
        float,
        LIVE,
        Field(ge=0, description="The node's parameter: older images are stale; 0 is no limit."),
    ] = 0.0
    transport: Annotated[
        Transport | None,
        LIVE,
        Field(
            description="Play as a camera does that publishes now, in this form, not as recorded."
        ),
    ] = None
    annotate: Annotated[
        bool,
        Flag(stands_for=True),
        Field(description="Write a bag per stream with the answers, for Foxglove and RViz."),
    ] = False
    video: Annotated[
        bool,
        Flag(stands_for=True),
        Field(description="Write a video per stream with the answers."),
    ] = False

    @property
    def selection(self) -> Selection:
        """The network that is evaluated."""
        return Selection(self.bundle, self.engine, self.precision, self.threads)


def reasons(error: ValidationError) -> str:
    """What is wrong with which field, in one line."""

    def reason(one: Any) -> str:
        where = ".".join(str(part) for part in one["loc"]) or "scenario"
        return f"{where}: {one['msg'].removeprefix('Value error, ')}"

    return "; ".join(map(reason, error.errors()))
