"""Processes that prepare training samples: how many, and how they start."""

import errno
import os
import signal
from multiprocessing import queues
from pathlib import Path

import cv2
import torch

MOST_WORKERS = 16
CGROUP = Path("/sys/fs/cgroup")
"""Limits of the container this process runs in, where it runs in one."""


def usable_cores() -> int:
    """CPU cores this process may run on, within the limit of its container."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else min(cores, max(1, int(quota) // int(period)))


def local_processes() -> int:
    """Training processes on this machine, as the launcher (torchrun, accelerate) says; else 1."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def worker_count(cores: int | None = None, processes: int | None = None) -> int:
    """Loader workers for each of `processes` training processes on `cores` cores.

    All of a process's share of the cores but one, which feeds the accelerator; 1 to 16.
    """
    share = (cores or usable_cores()) // (processes or local_processes())
    return max(1, min(MOST_WORKERS, share - 1))


GRACE_S = 60
"""Time that the trainer has for ending the run after a SIGTERM to all its processes."""


def start_worker(_worker: int) -> None:
    """`worker_init_fn` of a DataLoader: one thread, not ended by what ends the run."""
    torch.set_num_threads(1)
    # OpenCV's threads do not survive the fork, and the cores are taken by the other workers.
    cv2.setNumThreads(0)
    # Both reach every process of a terminal or a job; the trainer alone decides when to end. It
    # waits for workers that were sent a SIGTERM when it ends itself, so deaf they must not be.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_S))
    # A thread sends the samples. Where it fails, they would be lost and waited for in vain.
    queues.Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]


def _end_worker(error: Exception, _samples: object) -> None:
    """End at once, with an exit code that the trainer makes words of."""
    os._exit(errno.ENOSPC if "No space left" in str(error) else 1)
