"""What a run computes on: devices, processes, precision and random numbers, by Accelerate."""

import warnings
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    gather_object,
    set_seed,
)
from torch import nn

from mtc_perception.util.errors import UserError
from offline_compress.data.loader_workers import local_processes

LONGEST_WAIT = timedelta(hours=2)
"""Of a process for another one."""
_ACCELERATE_NAMES = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def choose_precision(wanted: str, cuda: bool) -> str:
    """fp32, bf16 or fp16 for a recipe's `precision`.

    bf16 is chosen only where the machine computes in it: CPUs with AVX512-BF16 or AMX, NVIDIA GPUs
    since Ampere. Raises UserError for fp16 on a CPU.
    """
    if wanted == "fp16" and not cuda:
        raise UserError("precision fp16 needs a GPU; set precision to auto, bf16 or fp32")
    if wanted != "auto":
        return wanted
    if cuda:
        return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
    able = torch.cpu.get_capabilities()
    return "bf16" if able.get("avx512_bf16") or able.get("amx_bf16") else "fp32"


def start_accelerator(precision: str, accumulate: int, deterministic: bool = False) -> Accelerator:
    """Join the processes of this run, or be the only one.

    Without a GPU the processes talk over gloo, and arithmetic is always deterministic. `precision`,
    `accumulate` and `deterministic` are the recipe's.
    """
    cuda = torch.cuda.is_available()
    chosen = choose_precision(precision, cuda)
    torch.backends.cudnn.deterministic = deterministic
    # Samples have one size, or two (`closing`), so that trying cuDNN's algorithms once pays.
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.allow_tf32 = chosen != "fp32"
    if not cuda:
        # Only a CPU has a deterministic form of everything that the networks compute.
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # One process may train several times, at different precisions.
    AcceleratorState._reset_state()
    with warnings.catch_warnings():
        # On how many threads it takes per process.
        warnings.simplefilter("ignore")
        return Accelerator(
            mixed_precision=_ACCELERATE_NAMES[chosen],
            cpu=not cuda,
            gradient_accumulation_steps=accumulate,
            # `average_norms` does better than the first process's statistics for all.
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False),
                # Machines decode as many images as they have memory for before the first step.
                InitProcessGroupKwargs(timeout=LONGEST_WAIT),
            ],
        )


Given = TypeVar("Given")


def of_this_machine(value: Given) -> list[Given]:
    """What each process of this machine gives, in their order; all processes call it together."""
    state = PartialState()
    first = state.process_index - state.local_process_index
    return list(gather_object([value])[first : first + local_processes()])


def seed_pass(seed: int, number: int, process: int) -> None:
    """Seed every generator for one pass of one process.

    What is drawn in it then depends on nothing before it: a resumed run needs no generator states.
    """
    set_seed(int(np.random.SeedSequence((seed, number, process)).generate_state(1)[0]))


@torch.no_grad()
def average_norms(accelerator: Accelerator, model: nn.Module) -> None:
    """Average the BatchNorm statistics over all processes, which then hold the same network."""
    if accelerator.num_processes == 1:
        return
    statistics = [
        statistic
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for statistic in (module.running_mean, module.running_var)
        if statistic is not None
    ]
    if not statistics:
        return
    together = accelerator.reduce(torch.cat(statistics), "mean")
    for statistic, mean in zip(
        statistics, together.split([s.numel() for s in statistics]), strict=True
    ):
        statistic.copy_(mean)
