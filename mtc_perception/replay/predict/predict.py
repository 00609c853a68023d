"""Every image of the inputs through a network, and its answer written down."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from mtc_perception.replay.predict.inputs import Input
from mtc_perception.replay.predict.sinks import LINES, Lines, Pictures, write_masks
from mtc_perception.replay.predict.window import Window
from mtc_perception.replay.recordings.recording import LabelledFrame, first_seconds
from mtc_perception.replay.stream.lockstep import ReplayedImage, replay_frames
from mtc_perception.runtime.perceiver import Perceiver
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import replacing_folder
from mtc_perception.util.progress import Progress


@dataclass(slots=True)
class Outcome:
    """What became of the images of one input."""

    name: str
    answered: int = 0
    unanswered: int = 0
    first_reason: str = ""
    """Why the first image without an answer has none."""

    def count(self, image: ReplayedImage) -> None:
        """Add one image."""
        if image.perception is not None:
            self.answered += 1
            return
        if not self.unanswered:
            self.first_reason = f"image {image.labelled.frame.index}: {image.reason}"
        self.unanswered += 1


def predict(
    perceiver: Perceiver,
    inputs: Sequence[Input],
    out: Path,
    progress: Progress,
    *,
    seconds: float | None = None,
    masks: bool = False,
    window: Window | None = None,
) -> list[Outcome]:
    """Write pictures or videos, `predictions.jsonl` and perhaps masks of all inputs to `out`.

    `seconds` limits every video, bag and camera. `out` is replaced at the end if it holds
    predictions. Ctrl-C ends a live input, and closing the window all of them: what was seen until
    then is kept. Raises UserError if `out` holds something else, SourceError where nothing of an
    input can be read, EngineError if the engine fails.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not (out / LINES).is_file():
        raise UserError(f"{out} holds something else than predictions: choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    outcomes = []
    with replacing_folder(out) as folder:
        folder.mkdir()
        with closing(_Desk(perceiver, folder, masks, window)) as desk:
            for source in inputs:
                outcome = Outcome(source.name)
                outcomes.append(outcome)
                tick = progress.ticker(source.name, source.count, unit="img")
                try:
                    with closing(desk.answers(source, seconds)) as answers:
                        for answer in answers:
                            outcome.count(answer)
                            tick()
                except KeyboardInterrupt:
                    if not (source.live and outcome.answered):
                        raise
                    break
                if desk.left:
                    break
    return outcomes


class _Desk:
    """Where images are answered one by one, and their answers written to a folder."""

    def __init__(
        self, perceiver: Perceiver, folder: Path, masks: bool, window: Window | None
    ) -> None:
        self._perceiver, self._folder, self._masks, self._window = perceiver, folder, masks, window
        self._classes = list(perceiver.bundle.manifest.classes)
        self._lines = Lines(folder, self._classes)
        self._names: set[str] = set()
        self.left = False
        """Somebody has closed the window."""

    def answers(self, source: Input, seconds: float | None) -> Generator[ReplayedImage, None, None]:
        """The images of an input, each when all of it is written."""
        frames = first_seconds(source.frames(), seconds if source.rate_hz else None)
        labelled = (LabelledFrame(frame, None) for frame in frames)
        limits = self._perceiver.bundle.manifest.limits
        with (
            closing(replay_frames(labelled, self._perceiver, limits, None)) as replayed,
            closing(Pictures(self._folder, source, self._classes)) as pictures,
        ):
            for one in replayed:
                self._write(one, source, pictures)
                yield one
                if self.left:
                    return

    def close(self) -> None:
        """Complete the lines."""
        self._lines.close()

    def _write(self, one: ReplayedImage, source: Input, pictures: Pictures) -> None:
        frame = one.labelled.frame
        name = self._name(frame.name or f"{source.name}_{frame.index:06d}")
        masks = {}
        if self._masks and one.perception is not None:
            masks = write_masks(self._folder, name, one.perception)
        self._lines.add(source, name, one, masks)
        if one.image is not None:
            picture = pictures.add(name, one.rgb(), one.perception, frame.stamp_ns)
            if self._window:
                self.left = not self._window.show(picture)

    def _name(self, wanted: str) -> str:
        """`wanted`, or that with a number where another image has it."""
        name, number = wanted, 2
        while name in self._names:
            name, number = f"{wanted}_{number}", number + 1
        self._names.add(name)
        return name
