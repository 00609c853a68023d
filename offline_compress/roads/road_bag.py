"""Write a synthetic drive as a rosbag2 (mcap): camera images and their ground truth.

Every frame has four messages with one stamp: `/camera/image_raw/compressed` (JPEG) and, under
`/ground_truth/`, `detections` (Detection2DArray; a vehicle too small or too hidden to count has
the id "ignore"), `drivable_mask` and `lane_mask` (mono8 Image, 0 or 255).
"""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mtc_perception.core.truth import GroundTruth
from mtc_perception.replay.recordings.recording import EncodedPixels
from mtc_perception.replay.recordings.writer import START_NS, BagWriter, new_bag
from mtc_perception.util.errors import UserError
from mtc_perception.util.progress import Progress
from mtc_perception.util.read_ahead import map_ahead
from offline_compress.roads.render import Drive, Scene

IMAGE_TOPIC = "/camera/image_raw/compressed"
FRAME_ID = "camera"
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class _PackedScene:
    """A scene made small for its way between processes."""

    jpeg: bytes
    boxes: NDArray[np.float32]
    ignore_boxes: NDArray[np.float32]
    drivable_bits: bytes
    lane_bits: bytes


def write_bag(
    out: Path | str,
    duration_s: float,
    fps: float,
    width: int,
    height: int,
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Record `duration_s` seconds of a drive at `fps` frames of `width` x `height` pixels.

    The bag is the folder `out`; it appears only when complete. The same arguments give the same
    messages, whatever the number of `workers` (processes; default: the CPU cores, at most 8).
    Raises UserError for impossible arguments, and when `out` exists and `overwrite` is off.
    """
    out = Path(out)
    count = round(duration_s * fps) if fps > 0 else 0
    if count < 1:
        raise UserError(f"{duration_s} s at {fps} frames per second give no frame")
    if min(width, height) < 32:
        raise UserError(f"images need at least 32x32 pixels, not {width}x{height}")
    if seed < 0:
        raise UserError(f"the seed must not be negative, not {seed}")
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists: choose another folder or pass --overwrite")
    with new_bag(out, {"synthetic_roads_seed": str(seed)}) as writer:
        workers = workers or min(os.cpu_count() or 1, 8)
        _write(writer, count, (seed, width, height, fps), workers)
    return out


def _write(writer: BagWriter, count: int, drive: tuple[int, int, int, float], workers: int) -> None:
    _, width, height, fps = drive
    with Progress() as progress:
        frames = progress.track(_frames(drive, count, workers), "synthetic drive", count, "img")
        for index, frame in enumerate(frames):
            stamp_ns = START_NS + round(index * 1e9 / fps)
            _write_frame(writer, frame, stamp_ns, (height, width))


def _frames(drive: tuple[int, int, int, float], count: int, workers: int) -> Iterator[_PackedScene]:
    """The frames in order, rendered by several processes with a bounded lead."""
    if workers == 1 or count < 4:
        camera = Drive(*drive)
        for index in range(count):
            yield _pack(camera.frame(index))
        return
    # Not forked: the caller may hold threads (OpenCV, a progress bar) that a fork would break.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start, (drive,)) as pool:
        yield from map_ahead(pool, _render, range(count), 4 * workers)


_drive: Drive | None = None


def _start(drive: tuple[int, int, int, float]) -> None:
    global _drive
    cv2.setNumThreads(1)
    _drive = Drive(*drive)


def _render(index: int) -> _PackedScene:
    assert _drive is not None
    return _pack(_drive.frame(index))


def _pack(scene: Scene) -> _PackedScene:
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    done, jpeg = cv2.imencode(".jpg", scene.image[..., ::-1], quality)
    if not done:
        raise RuntimeError("OpenCV cannot encode JPEG")
    return _PackedScene(
        jpeg.tobytes(),
        scene.boxes,
        scene.ignore_boxes,
        np.packbits(scene.drivable > 0).tobytes(),
        np.packbits(scene.lane > 0).tobytes(),
    )


def _write_frame(
    writer: BagWriter, frame: _PackedScene, stamp_ns: int, shape: tuple[int, int]
) -> None:
    def mask(bits: bytes) -> NDArray[np.bool_]:
        flat = np.unpackbits(np.frombuffer(bits, np.uint8), count=shape[0] * shape[1])
        return flat.reshape(shape).view(np.bool_)

    truth = GroundTruth(
        boxes=np.concatenate([frame.boxes, frame.ignore_boxes]),
        ignore=np.arange(len(frame.boxes) + len(frame.ignore_boxes)) >= len(frame.boxes),
        drivable=mask(frame.drivable_bits),
        lane=mask(frame.lane_bits),
    )
    writer.image(IMAGE_TOPIC, stamp_ns, FRAME_ID, EncodedPixels("jpeg", frame.jpeg))
    writer.truth(stamp_ns, FRAME_ID, truth)
