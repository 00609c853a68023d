"""Write synthetic roads as a data set in the project's layout (see `datasets/project.py`)."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mtc_perception.util.errors import UserError
from mtc_perception.util.files import disk_errors_name, making, put_in_place, replacing
from mtc_perception.util.progress import Progress
from offline_compress.recipe.parts import DataSource
from offline_compress.roads.render import render_scene

# Raised whenever the pictures of a seed change, so that old and new are never mixed in one set.
RENDERER_VERSION = 7
_PARAMETERS = "synth.json"
_JPEG_QUALITY = 93


@dataclass(frozen=True)
class DatasetSpec:
    """Everything that decides the bytes of a synthetic data set."""

    count: int
    width: int
    height: int
    seed: int
    val_fraction: float
    renderer: int = RENDERER_VERSION

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"the number of images must be at least 1, not {self.count}")
        if min(self.width, self.height) < 32:
            raise UserError(f"images need at least 32x32 pixels, not {self.width}x{self.height}")
        if self.seed < 0:
            raise UserError(f"the seed must not be negative, not {self.seed}")
        if not 0 <= self.val_fraction <= 1:
            raise UserError(f"the share of val must lie in 0..1, not {self.val_fraction}")

    def split(self, index: int) -> str:
        """The split of image `index`: the last ones are for validation."""
        return "train" if index < self.count - round(self.count * self.val_fraction) else "val"

    def stem(self, index: int) -> str:
        """File name of image `index` without its ending."""
        return f"synth_{self.seed}_{index:06d}"


def write_dataset(
    out: Path | str,
    count: int,
    width: int,
    height: int,
    seed: int = 0,
    val_fraction: float = 0.0,
    workers: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Render `count` scenes of `width` x `height` pixels into the data set folder `out`.

    The same arguments give the same bytes, whatever the number of `workers` (processes; default:
    the CPU cores, at most 8). Work happens in `<out>.partial`, which becomes `out` when all is
    there; an interrupted run continues where it stopped. Raises UserError when `out` exists and
    `overwrite` is off, or when a partial run was made with other arguments.
    """
    out = Path(out)
    spec = DatasetSpec(count, width, height, seed, val_fraction)
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists: choose another folder or pass --overwrite")
    work = out.with_name(out.name + ".partial")
    with making(out), disk_errors_name(work):
        _prepare(work, spec, overwrite)
        todo = [i for i in range(count) if not _label_file(work, spec, i).exists()]
        workers = workers or min(os.cpu_count() or 1, 8)
        with Progress() as progress:
            rendered = _run(partial(_write_scene, work, spec), todo, workers)
            for done, _ in enumerate(rendered, count - len(todo) + 1):
                progress.count("synthetic roads", done, count, unit="img")
        for split in sorted({spec.split(i) for i in range(count)}):
            _write_detections(work, spec, split)
        shutil.rmtree(work / "labels")
        put_in_place(work, out)
    return out


def render_missing(sources: Sequence[DataSource]) -> None:
    """Render the synthetic roads among `sources` that are not there yet.

    Raises UserError if a folder holds other roads than its source asks for.
    """
    for source in sources:
        wanted = source.synthetic
        if wanted is None:
            continue
        if not source.root.exists():
            write_dataset(source.root, wanted.count, wanted.width, wanted.height, wanted.seed)
            continue
        spec = DatasetSpec(wanted.count, wanted.width, wanted.height, wanted.seed, 0.0)
        found = _recorded(source.root / _PARAMETERS)
        for name, value in asdict(spec).items():
            if found.get(name) != value:
                raise UserError(
                    f"{source.root} holds other roads ({name} {found.get(name)}, not {value}): "
                    "delete it, and it is rendered anew"
                )


def _recorded(record: Path) -> dict[str, Any]:
    """What a data set was rendered from; nothing if that cannot be told."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _prepare(work: Path, spec: DatasetSpec, overwrite: bool) -> None:
    """Make the working folder, or check that a left one belongs to the same data set."""
    wanted = asdict(spec)
    record = work / _PARAMETERS
    if work.exists():
        if _recorded(record) == wanted:
            (work / "labels").mkdir(exist_ok=True)  # gone, where it was stopped at the very end
            return
        if not overwrite:
            raise UserError(
                f"{work} is an unfinished run with other arguments: delete it or pass --overwrite"
            )
        shutil.rmtree(work)
    for split in {spec.split(i) for i in range(spec.count)}:
        for kind in ("images", "drivable", "lane"):
            (work / kind / split).mkdir(parents=True)
    (work / "labels").mkdir()
    (work / "det").mkdir()
    _write_bytes(record, json.dumps(wanted, indent=1).encode())


def _run(function: Any, todo: list[int], workers: int) -> Iterator[None]:
    if workers == 1 or len(todo) < 4:
        yield from map(function, todo)
        return
    # Not forked: the caller may hold threads (OpenCV, a progress bar) that a fork would break.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, cv2.setNumThreads, (1,)) as pool:
        yield from pool.map(function, todo, chunksize=4)


def _label_file(work: Path, spec: DatasetSpec, index: int) -> Path:
    return work / "labels" / f"{spec.stem(index)}.json"


def _write_scene(work: Path, spec: DatasetSpec, index: int) -> None:
    scene = render_scene(spec.seed * 1_000_003 + index, spec.width, spec.height)
    split, stem = spec.split(index), spec.stem(index)
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    _write_bytes(
        work / "images" / split / f"{stem}.jpg", _encode(".jpg", scene.image[..., ::-1], quality)
    )
    for kind, mask in (("drivable", scene.drivable), ("lane", scene.lane)):
        _write_bytes(work / kind / split / f"{stem}.png", _encode(".png", mask, []))
    labels = {"boxes": scene.boxes.tolist(), "ignore": scene.ignore_boxes.tolist()}
    # Written last: its presence says that the scene is complete.
    _write_bytes(_label_file(work, spec, index), json.dumps(labels).encode())


def _write_detections(work: Path, spec: DatasetSpec, split: str) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(spec.count):
        if spec.split(index) != split:
            continue
        images.append(
            {
                "id": index,
                "file_name": f"{spec.stem(index)}.jpg",
                "width": spec.width,
                "height": spec.height,
            }
        )
        labels = json.loads(_label_file(work, spec, index).read_text(encoding="utf-8"))
        for crowd, key in enumerate(("boxes", "ignore")):
            for x1, y1, x2, y2 in labels[key]:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index,
                        "category_id": 1,
                        "iscrowd": crowd,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                    }
                )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "vehicle", "supercategory": "none"}],
    }
    _write_bytes(work / "det" / f"{split}.json", json.dumps(content).encode())


def _encode(suffix: str, pixels: NDArray[np.uint8], options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, pixels, options)
    if not done:
        raise RuntimeError(f"OpenCV cannot encode {suffix}")
    return data.tobytes()


def _write_bytes(path: Path, data: bytes) -> None:
    with replacing(path, alone=True) as temporary:
        temporary.write_bytes(data)
