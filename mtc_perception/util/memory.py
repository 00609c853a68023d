"""Memory: image-sized pieces are kept in the process, and it is seen when there is no more."""

import ctypes

# mallopt's parameter numbers, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_MMAP_THRESHOLD_MOST = 32 * 1024 * 1024
_NEVER_TRIM = 2**31 - 1
_MEMORY_WORDS = ("not enough memory", "can't allocate memory", "out of memory", "unable to mmap")


def keep_memory() -> bool:
    """Tell glibc's allocator to reuse freed images; True where that was possible.

    By default every image that arrives is fresh memory from the system, and touching a fresh page
    costs a page fault: 3 to 8 ms per raw 1280x720 image on a virtual machine, more than its
    transport. Call it once, before any thread starts; the process then keeps its peak memory.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    settings = (
        (_MMAP_THRESHOLD, _MMAP_THRESHOLD_MOST),
        (_TRIM_THRESHOLD, _NEVER_TRIM),
        # One arena: a second one would grow to the same peak, and trims by rules of its own.
        (_ARENA_MAX, 1),
    )
    # A list: every setting is made, whether or not an earlier one was.
    done = [mallopt(name, value) for name, value in settings]
    return all(done)


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, of a device or of the machine."""
    text = str(error).lower()
    words = isinstance(error, RuntimeError) and any(word in text for word in _MEMORY_WORDS)
    return words or isinstance(error, MemoryError)
