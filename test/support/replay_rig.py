"""What tests of replay share: a labelled bag, `mtc-replay` as it is called, what sources yield."""

from pathlib import Path
from typing import Any

import pytest

from mtc_perception.core.truth import GroundTruth
from mtc_perception.replay import cli
from mtc_perception.replay.recordings.recording import FrameSource, Note, Notes
from mtc_perception.replay.records.record import FrameRecord, read_frames
from mtc_perception.replay.results.run_result import read_result
from support.bag_messages import COUNT, DETECTIONS, IMAGE, detections, mask, raw, write_bag

CORNER = (0.0, 0.0, 20.0, 20.0, "")
AWAY = (30.0, 30.0, 60.0, 45.0, "")


def labelled_bag(path: Path, topic: str = "/front/image_raw", count: int = COUNT) -> Path:
    """A bag of one camera whose images are all labelled, some of it right."""
    topics = {
        topic: (IMAGE, [raw(index) for index in range(count)]),
        "/front/ground_truth/detections": (
            DETECTIONS,
            [detections(index, CORNER, AWAY) for index in range(count)],
        ),
        "/front/ground_truth/drivable_mask": (IMAGE, [mask(i, 10 + i) for i in range(count)]),
        "/front/ground_truth/lane_mask": (IMAGE, [mask(i, 3 * i) for i in range(count)]),
    }
    return write_bag(path, topics)


def run(*words: object) -> int:
    """Exit code of `mtc-replay` with these words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["mtc-replay", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    code = ended.value.code
    assert isinstance(code, int)
    return code


def evaluate(out: Path, bundle: Path, *words: object) -> dict[str, Any]:
    """The result of an evaluation that is good."""
    options = ("--bundle", bundle, "--engine", "onnxruntime", "--threads", 1, "--out", out)
    assert run("evaluate", *words, *options) == 0
    return read_result(out)


def records(out: Path, number: int = 0) -> list[FrameRecord]:
    [folder] = (out / "streams").glob(f"{number:02d}_*")
    return list(read_frames(folder))


def truths(source: FrameSource) -> dict[int, GroundTruth]:
    """Labels by image stamp."""
    frames = source.labelled_frames(Notes())
    return {frame.stamp_ns: truth for frame, truth in frames if truth is not None}


def read(source: FrameSource) -> tuple[list[int], list[Note]]:
    """The images' indices, and what was noted."""
    notes = Notes()
    return [frame.index for frame, _ in source.labelled_frames(notes)], notes.all()
