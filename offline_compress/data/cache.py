"""Decoded images kept in memory, as many as it holds; the others are decoded when asked for."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import psutil

from mtc_perception.util.read_ahead import map_ahead
from offline_compress.data.augment import LabelledImage
from offline_compress.data.loader_workers import CGROUP, local_processes, usable_cores

MEMORY_SHARE = 0.5
"""Part of the memory available at the start that decoded images may take."""


def memory_budget_bytes(processes: int | None = None) -> int:
    """Memory for decoded images in each of `processes` (default: the launcher's) of this machine.

    Respects the limit of the container the process runs in.
    """
    available = psutil.virtual_memory().available
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        # Of what is in use, cached files make room when memory is asked for.
        cached = int(stat["inactive_file"]) + int(stat["active_file"])
        used = max(0, int((CGROUP / "memory.current").read_text()) - cached)
    except (OSError, ValueError, KeyError):
        limit, used = "max", 0
    if limit != "max":
        available = min(available, max(0, int(limit) - used))
    return int(available * MEMORY_SHARE / (processes or local_processes()))


def size_bytes(image: LabelledImage) -> int:
    """Memory of one labelled image."""
    arrays = (image.image, image.drivable, image.lane, image.boxes, image.kinds)
    return sum(array.nbytes for array in arrays)


class DecodedImages:
    """Labelled images by index.

    What is kept changes how fast an image comes, never which: a run that resumes on a machine
    with less memory sees the same samples.
    """

    def __init__(self, load: Callable[[int], LabelledImage], order: Sequence[int]) -> None:
        """`load` decodes one image; `order` lists all indices, the most wanted first."""
        self._load, self._order = load, order
        self._kept: dict[int, LabelledImage] = {}

    def fill(self, budget_bytes: int) -> Iterator[int]:
        """Decode images until all are kept or `budget_bytes` are used; yields the count kept.

        To be done before workers fork: they share what is there by then.
        """
        threads = usable_cores()
        left = budget_bytes
        with ThreadPoolExecutor(threads) as pool:
            images = map_ahead(pool, self._load, self._order, 2 * threads)
            for index, image in zip(self._order, images, strict=True):
                left -= size_bytes(image)
                if left < 0:
                    images.close()
                    return
                self._kept[index] = image
                yield len(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> LabelledImage:
        return self._kept.get(index) or self._load(index)
