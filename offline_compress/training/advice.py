"""Failures of a run that the user can mend, said in one line."""

import errno
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from mtc_perception.util.errors import UserError
from mtc_perception.util.memory import is_out_of_memory

_SHARED_MEMORY_WORDS = ("bus error", "shared memory", f"exit code {errno.ENOSPC}")


@contextmanager
def memory_advice(advice: str | None = None) -> Iterator[None]:
    """Turn running out of memory, on a device or the machine, into UserError.

    `advice` says what to do; default: what helps a training.
    """
    advice = advice or _ADVICE
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise UserError(advice) from None
        text = str(error).lower()
        if "connection closed by peer" in text or "connection reset by peer" in text:
            raise UserError("another process of the run failed: see its message") from None
        if "dataloader worker" in text and any(word in text for word in _SHARED_MEMORY_WORDS):
            raise UserError(_SHARED_MEMORY_ADVICE) from None
        if "dataloader timed out" in text:
            raise UserError(
                "no samples came for minutes: see whether the disk with the images answers; the "
                "same command resumes"
            ) from None
        if "dataloader worker" in text and ("killed" in text or "exited unexpectedly" in text):
            raise UserError(_KILLED_ADVICE) from None
        raise


def lost_worker(exit_codes: Iterable[int | None]) -> UserError:
    """The error of a process that loads samples and has ended, by the exit codes of all."""
    full = {-signal.SIGBUS, errno.ENOSPC} & set(exit_codes)
    return UserError(_SHARED_MEMORY_ADVICE if full else _KILLED_ADVICE)


@contextmanager
def shared_memory_advice() -> Iterator[None]:
    """Turn a full /dev/shm, where processes that load samples begin, into UserError."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise UserError(_SHARED_MEMORY_ADVICE) from None


_KILLED_ADVICE = (
    "a process that loads samples was killed, most likely because memory ran out; free some, or "
    "train on fewer images; the same command resumes"
)
_SHARED_MEMORY_ADVICE = (
    "/dev/shm is too small for the samples on their way: enlarge it (docker run --shm-size 8g), or "
    "make batch or crop smaller; the same command resumes"
)
_ADVICE = (
    "memory ran out; set schedule.accumulate higher (a divisor of batch: the same batch in more "
    "passes; the same command then resumes), or make crop or batch smaller and train into another "
    "--out"
)


def divergence(what: str, step: int) -> UserError:
    """The error of a run whose numbers are no longer finite."""
    return UserError(
        f"{what} at step {step}; lower learning_rate or lengthen warmup_epochs in the recipe, and "
        "train into another --out (what was saved before is intact)"
    )
