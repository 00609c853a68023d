"""Opens whatever was recorded: a rosbag2, a video file or an image folder."""

from pathlib import Path

from mtc_perception.replay.recordings.bag import BagSource
from mtc_perception.replay.recordings.bag_files import is_bag
from mtc_perception.replay.recordings.frames import FrameSource, SourceError
from mtc_perception.replay.recordings.media import FolderSource, VideoSource
from mtc_perception.replay.recordings.truth_topics import TruthTopics


def open_source(
    path: Path | str,
    topic: str | None = None,
    fps: float | None = None,
    truth: TruthTopics | None = None,
) -> FrameSource:
    """Open a recording; reads no image yet.

    `topic` chooses the camera of a bag that has several; `fps` is the frame rate of an image folder
    (default 30) or overrides that of a video; `truth` names the topics of a bag's labels, which are
    looked for by default. Raises SourceError saying what to do.
    """
    path = Path(path)
    if not path.exists():
        raise SourceError(f"{path} does not exist")
    if is_bag(path):
        if fps is not None:
            raise SourceError(f"{path} is a bag and has its own times: leave out --fps")
        return BagSource(path, topic, truth)
    if topic is not None:
        raise SourceError(f"{path} is no bag: leave out --topic")
    if truth is not None:
        raise SourceError(f"{path} is no bag: it has no topics with labels")
    return FolderSource(path, fps) if path.is_dir() else VideoSource(path, fps)
