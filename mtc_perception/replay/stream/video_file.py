"""Videos that browsers play, as far as OpenCV can write them here."""

import os
from pathlib import Path

import cv2
import numpy as np

from mtc_perception.pages.pictures import Rgb
from mtc_perception.util.errors import ReplayError

# Browsers play VP8 in WebM; MPEG-4 is what OpenCV can always write. VP8 takes 50 ms per image of
# 720 pixels' width.
_CODECS = ((".webm", "VP80"), (".mp4", "mp4v"))


class VideoFile:
    """A video that is written image by image; all have the size of the first one."""

    def __init__(self, folder: Path, name: str, rate_hz: float) -> None:
        """The file is `folder`/`name` with the suffix of what OpenCV can write: `.webm`, `.mp4`."""
        self._folder, self._name, self._rate_hz = folder, name, rate_hz
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, rgb: Rgb) -> None:
        """Add an image, its sides even. Raises ReplayError where no video can be written."""
        if self._writer is None:
            self._size = (rgb.shape[1], rgb.shape[0])
            self._writer = self._open()
        if rgb.shape[1::-1] != self._size:  # the camera's resolution changed
            rgb = np.asarray(cv2.resize(rgb, self._size), np.uint8)
        self._writer.write(np.ascontiguousarray(rgb[..., ::-1]))

    def close(self) -> None:
        """Complete the file; nothing where no image was written."""
        if self._writer is not None:
            self._writer.release()

    def _open(self) -> "cv2.VideoWriter":
        for suffix, codec in _CODECS:
            path = self._folder / f"{self._name}{suffix}"
            with _quiet_stderr():
                code = cv2.VideoWriter.fourcc(*codec)
                writer = cv2.VideoWriter(str(path), code, self._rate_hz, self._size)
            if writer.isOpened():
                return writer
            path.unlink(missing_ok=True)
        raise ReplayError(f"OpenCV can write no video here (tried {', '.join(map(str, _CODECS))})")


def find_video(folder: Path, name: str) -> Path | None:
    """What a `VideoFile` has written; None if there is none."""
    paths = [folder / f"{name}{suffix}" for suffix, _ in _CODECS]
    return next((path for path in paths if path.is_file()), None)


class _quiet_stderr:
    """Keeps FFmpeg's remarks on codec tags, written past Python, off the terminal."""

    def __enter__(self) -> None:
        self._saved = os.dup(2)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)

    def __exit__(self, *_: object) -> None:
        os.dup2(self._saved, 2)
        os.close(self._saved)
