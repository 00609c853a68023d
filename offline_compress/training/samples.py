"""Which process sees which samples, in batches ready for its device.

The k-th sample of a run depends on the seed and k alone (`TrainingSet`). A step takes the next
`batch` samples, whatever the number of processes and of passes it is split into.
"""

from collections.abc import Generator, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader

from mtc_perception.util.errors import UserError
from offline_compress.data.batch import Batch, collate
from offline_compress.data.dataset import TrainingSet, View
from offline_compress.data.loader_workers import start_worker, worker_count
from offline_compress.recipe.recipe import Recipe
from offline_compress.training.advice import lost_worker, shared_memory_advice
from offline_compress.training.step_schedule import StepSchedule

LONGEST_WAIT_S = 600.0
"""For the samples of one step: a disk that hangs, as a network's may, ends the run."""


def training_set(recipe: Recipe) -> TrainingSet:
    """The samples of a run. Raises LayoutError for a data set that is missing or broken."""
    schedule = recipe.schedule
    steps = StepSchedule.of(schedule)
    view = View(recipe.crop, recipe.scale_jitter, recipe.mosaic)
    views = {0: view}
    if closing := recipe.closing:
        first = (schedule.epochs - closing.epochs) * steps.steps_per_epoch * schedule.batch
        views[first] = View(closing.crop or view.crop, closing.scale_jitter or view.scale_jitter)
    return TrainingSet(
        recipe.train, recipe.input, views, recipe.seed, recipe.bonnet, recipe.class_map
    )


def samples_per_pass(batch: int, accumulate: int, processes: int) -> int:
    """Samples that one process takes at once. Raises UserError if the batch cannot be split."""
    parts = accumulate * processes
    if batch % parts:
        nearest = max(1, (2 * batch + parts) // (2 * parts)) * parts
        raise UserError(
            f"batch {batch} cannot be split evenly into {processes} processes x "
            f"{accumulate} passes (accumulate); the nearest multiple of {parts} is {nearest}"
        )
    return batch // parts


def sample_numbers(step: int, steps: int, batch: int, process: int, processes: int) -> range:
    """Numbers of the samples that a process sees from `step` to the end: its turn of every round.

    Cut into parts of `samples_per_pass`, the parts of all processes hold the same samples as one
    pass of a single process does.
    """
    return range(step * batch + process, steps * batch, processes)


def batches(
    data: TrainingSet, numbers: range, size: int, pin: bool
) -> Generator[Batch, None, None]:
    """The samples `numbers` in batches of `size`, made by other processes ahead of time.

    Close it when done: those processes end with it.
    """
    loader = DataLoader(
        data,
        size,
        sampler=numbers,
        collate_fn=collate,
        num_workers=worker_count(),
        worker_init_fn=start_worker,
        prefetch_factor=4,
        pin_memory=pin,
        timeout=LONGEST_WAIT_S,
    )
    with shared_memory_advice():
        iterator: Any = iter(loader)
    try:
        yield from iterator
    except (EOFError, ConnectionError, FileNotFoundError, RuntimeError) as error:
        # Where samples are fetched from a process that has ended, none is of PyTorch's own.
        if isinstance(error, RuntimeError) and "exited unexpectedly" not in str(error):
            raise
        raise lost_worker(_exit_codes(iterator)) from None
    finally:
        # Left to the garbage collector, an exception that holds the iterator would keep its
        # processes, and they this one, from ending. There is no public way.
        iterator._shutdown_workers()


def _exit_codes(iterator: Any) -> list[int | None]:
    """Of the processes that load samples; None of those that live."""
    for worker in iterator._workers:
        worker.join(0.5)
    return [worker.exitcode for worker in iterator._workers]


def take(stream: Iterator[Batch], passes: int) -> list[Batch]:
    """The batches of one step."""
    return list(islice(stream, passes))
