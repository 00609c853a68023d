"""Decoded images kept in memory, as many as it holds; the others are decoded when asked for."""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psutil

from mtc_perception.util.read_ahead import map_ahead
from offline_compress.data.augment import LabelledImage
from offline_compress.data.loader_workers import CGROUP, local_processes, usable_cores
from offline_compress.data.shared_images import Place, ReadImages, WrittenImages

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


Key = tuple[int, bool]
"""Index of an image, and whether it is to be small."""
Everyones = Callable[[Any], list[Any]]
"""What each process of the machine gives, in the same order in all of them."""


class DecodedImages:
    """Labelled images by index, each of them whole or small.

    What is kept changes how fast an image comes, never which: a run that resumes on a machine
    with less memory sees the same samples.
    """

    def __init__(self, load: Callable[[int, bool], LabelledImage], order: Sequence[int]) -> None:
        """`load` decodes one image, whole or small; `order` lists all, the most wanted first."""
        self._load, self._order = load, order
        self._written: WrittenImages | None = None
        self._places: dict[Key, Place] = {}
        self._kept: dict[Key, tuple[ReadImages, Place]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For workers that are not forked: what is kept, but not the means to keep more."""
        return self.__dict__ | {"_written": None, "_places": {}}

    def fill(
        self, budget_bytes: int | None = None, part: int = 0, parts: int = 1
    ) -> Iterator[tuple[int, int]]:
        """Decode images until all are kept or `budget_bytes` are used (default: this process's
        share of the machine's memory); yields how many are done, and of how many.

        Small ones are first: they are wanted more often, and more of them fit. One of `parts`
        processes that are going to `share` takes every `parts`-th image, from `part` on. To be done
        before workers fork: they share what is there by then. Raises what loading raises.
        """
        left = memory_budget_bytes() if budget_bytes is None else budget_bytes
        own = self._order[part::parts]
        self._written = WrittenImages()
        for small in (True, False):
            wanted = [index for index in own if (index, small) not in self._places]
            with closing(self._loaded(wanted, small)) as images:
                for index, image in zip(wanted, images, strict=True):
                    left -= size_bytes(image)
                    if left < 0:
                        break
                    place = self._written.add(image)
                    self._places[index, small] = place
                    if small and not image.reduced:
                        self._places[index, False] = place
                    yield len(self._places) // 2, len(own)
            if left < 0:
                break
        self.share(lambda ours: [ours])

    def _loaded(self, indices: Sequence[int], small: bool) -> Generator[LabelledImage, None, None]:
        threads = usable_cores()
        with ThreadPoolExecutor(threads) as pool:
            yield from map_ahead(pool, lambda index: self._load(index, small), indices, 2 * threads)

    def share(self, everyones: Everyones) -> None:
        """Use what all processes of the machine have decoded, each its part.

        What cannot be read of another one is decoded when it is asked for.
        """
        if self._written is None:
            return
        for memory, places in everyones((self._written.memory, self._places)):
            try:
                images = ReadImages(memory)
            except OSError:
                continue
            self._kept |= {key: (images, place) for key, place in places.items()}

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, key: Key) -> LabelledImage:
        if kept := self._kept.get(key):
            images, place = kept
            return images.read(place)
        return self._load(*key)
