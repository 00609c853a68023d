"""What is to be looked at: image files, videos, bags, and cameras that are on now."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from glob import glob
from pathlib import Path

from mtc_perception.datasets.layout import IMAGE_SUFFIXES, image_paths
from mtc_perception.datasets.split_files import unread_images
from mtc_perception.replay.predict.live_camera import live_frames
from mtc_perception.replay.recordings.recording import (
    SourceError,
    SourceFrame,
)
from mtc_perception.replay.recordings.sources import encoded, find_streams, open_source
from mtc_perception.util.files import read_regular


@dataclass(frozen=True, slots=True)
class Input:
    """One thing to look at."""

    name: str
    """What its results are called."""
    frames: Callable[[], Iterator[SourceFrame]]
    """Its images. Raises SourceError where nothing can be read."""
    count: int | None = None
    """How many there are; None: nobody knows."""
    rate_hz: float | None = None
    """None: images of their own, not of one camera."""
    files: Sequence[Path] = ()
    """Of its images, by index, where they are files."""
    live: bool = False
    """It goes on until somebody ends it; images that come meanwhile are lost."""


def open_inputs(words: Sequence[str]) -> list[Input]:
    """What `words` name: paths, patterns, numbers of cameras, addresses of streams.

    All image files together are one input. Opens no camera. Raises SourceError.
    """
    files: list[Path] = []
    others: list[Input] = []
    for word in words:
        path = Path(word)
        if path.exists():
            found = [path]
        elif "://" in word or word.isdecimal():
            others.append(_live(word))
            continue
        else:
            found = [Path(one) for one in sorted(glob(word, recursive=True))]
            if not found:
                raise SourceError(f"{word} does not exist")
        for one in found:
            images = image_paths(one) if one.is_dir() else [one]
            if images and all(image.suffix.lower() in IMAGE_SUFFIXES for image in images):
                files += images
                if one.is_dir() and (unread := list(unread_images(one))):
                    print(f"not looked at: {len(unread)} times, first {unread[0]}", file=sys.stderr)
            else:
                others += _recording(one)
    return ([_images(files)] if files else []) + others


def _images(files: Sequence[Path]) -> Input:
    folders = {file.resolve().parent for file in files}
    name = files[0].stem if len(files) == 1 else min(folders).name
    return Input(name, partial(_image_frames, files), len(files), files=files)


def _image_frames(files: Sequence[Path]) -> Iterator[SourceFrame]:
    for index, file in enumerate(files):
        try:
            data = read_regular(file)
        except OSError:
            data = b""  # an image that cannot be decoded, as any other
        yield SourceFrame(index, 0, encoded(file, data), file.stem)


def _recording(path: Path) -> Iterator[Input]:
    """A video, or every camera of a bag."""
    for topic, truth in find_streams(path):
        source = open_source(path, topic, truth=truth)
        camera = "" if topic is None else topic.replace("/", "_")
        yield Input(
            path.stem + camera,
            source.frames,
            source.info.frames or None,
            source.info.rate_hz,
        )


def _live(word: str) -> Input:
    name = f"camera_{word}" if word.isdecimal() else word.partition("://")[0]
    return Input(name, partial(live_frames, word), rate_hz=30.0, live=True)
