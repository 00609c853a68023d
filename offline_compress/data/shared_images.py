"""Memory without a file in which a process keeps labelled images, and others of its machine read.

Neither /dev/shm, which is small in containers, nor a disk takes part.
"""

import mmap
import os
import pickle
from dataclasses import dataclass

from offline_compress.data.augment import LabelledImage

ALIGNMENT = 64
"""Every array begins at a multiple of this many bytes."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an image lies."""

    form: bytes
    """All of it but its arrays."""
    spans: list[tuple[int, int]]
    """First byte and length of every array."""


@dataclass(frozen=True, slots=True)
class MemoryOf:
    """The memory of another process."""

    process: int
    descriptor: int


class WrittenImages:
    """Images of this process; other processes read them for as long as this object lives."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.memfd_create("images"), "wb")
        self._end = 0

    @property
    def memory(self) -> MemoryOf:
        """What others open."""
        return MemoryOf(os.getpid(), self._file.fileno())

    def add(self, image: LabelledImage) -> Place:
        """Keep a copy of an image. Raises OSError where memory runs out."""
        arrays: list[pickle.PickleBuffer] = []
        form = pickle.dumps(image, protocol=5, buffer_callback=arrays.append)
        spans = []
        for array in arrays:
            content = array.raw()
            spans.append((self._end, content.nbytes))
            padding = bytes(-content.nbytes % ALIGNMENT)
            self._end += self._file.write(content) + self._file.write(padding)
        self._file.flush()
        return Place(form, spans)


class ReadImages:
    """Images that a process has written, this one or another one of the same user and machine."""

    def __init__(self, memory: MemoryOf) -> None:
        """Raises OSError if they are not to be had."""
        self._memory = memory
        path = f"/proc/{memory.process}/fd/{memory.descriptor}"
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            # A mapping of nothing is an error.
            self._bytes = memoryview(
                mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) if size else b""
            )

    def __reduce__(self) -> tuple[type["ReadImages"], tuple[MemoryOf]]:
        """Another process that is given them opens them itself."""
        return ReadImages, (self._memory,)

    def read(self, place: Place) -> LabelledImage:
        """An image; its arrays are views of the shared memory, read-only."""
        buffers = [self._bytes[begin : begin + length] for begin, length in place.spans]
        image: LabelledImage = pickle.loads(place.form, buffers=buffers)
        return image
