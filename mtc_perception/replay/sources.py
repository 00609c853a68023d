"""Opens whatever was recorded: a rosbag2, a video file or an image folder."""

from pathlib import Path

from mtc_perception.replay.bags import BagSource
from mtc_perception.replay.frames import FrameSource, SourceError
from mtc_perception.replay.media import FolderSource, VideoSource

_BAG_FILES = (".mcap", ".db3")


def open_source(
    path: Path | str, topic: str | None = None, fps: float | None = None
) -> FrameSource:
    """Open a recording; reads no image yet.

    `topic` chooses the camera of a bag that has several; `fps` is the frame rate of an image folder
    (default 30) or overrides that of a video. Raises SourceError saying what to do.
    """
    path = Path(path)
    if not path.exists():
        raise SourceError(f"{path} does not exist")
    if (path / "metadata.yaml").is_file():
        bag: Path | None = path
    elif path.suffix in _BAG_FILES:
        bag = path if path.suffix == ".mcap" else path.parent
        if path.suffix == ".db3" and not (bag / "metadata.yaml").is_file():
            raise SourceError(f"{path}: metadata.yaml is missing beside it (ros2 bag reindex)")
    else:
        bag = None
    if bag is not None:
        if fps is not None:
            raise SourceError(f"{bag} is a bag and has its own times: leave out --fps")
        return BagSource(bag, topic)
    if topic is not None:
        raise SourceError(f"{path} is no bag: leave out --topic")
    return FolderSource(path, fps) if path.is_dir() else VideoSource(path, fps)
