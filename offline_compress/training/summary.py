"""What a training is about to do, told before it begins."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from mtc_perception.datasets.sample import Sample
from offline_compress.data.labelled import categories_of, labels_in_words
from offline_compress.models.registry import ModelSpec
from offline_compress.recipe.recipe import Recipe


def summary(
    recipe: Recipe,
    spec: ModelSpec,
    model: nn.Module,
    drawn: Sequence[Sequence[Sample]],
    judged: Mapping[str, Sequence[Sample]],
    accelerator: Accelerator,
    out: Path,
) -> str:
    """A line each: network, data sets with what is labelled in them, what becomes of their
    categories, device, length, folder.

    `drawn` are the samples of each source of `recipe.train`, `judged` those of each set to validate
    on.
    """
    schedule = recipe.schedule
    whole = sum(source.weight for source in recipe.train)
    start = recipe.start_from or recipe.backbone_weights
    width, height = spec.width, spec.height
    shape = " of a pruned shape" if spec.is_pruned else ""
    lines = [
        f"network      {recipe.model}{shape}: {_millions(model)} M parameters, for {width}x{height}"
        + (f", from {start}" if start else ", from random weights")
    ]
    if recipe.distillation:
        lines.append(f"taught by    {recipe.distillation.teacher}")
    for source, samples in zip(recipe.train, drawn, strict=True):
        share = source.weight / whole
        lines.append(
            f"learns from  {source.title}: {labels_in_words(samples)}; {share:.0%} of the samples"
        )
    if categories := {name for samples in drawn for name in categories_of(samples)}:
        lines.append(f"classes      {recipe.class_map.takers(categories)}")
    labelled = {
        "detection": any(one.boxes is not None for samples in drawn for one in samples),
        "drivable": any(one.drivable is not None for samples in drawn for one in samples),
        "lane": any(one.lane is not None for samples in drawn for one in samples),
    }
    if lost := [task for task, known in labelled.items() if not known]:
        fate = "what it knew may fade" if recipe.start_from else "answers will mean nothing"
        lines.append(f"learns not   {', '.join(lost)}: no labels, so {fate}")
    lines += [
        f"judged by    {name}: {labels_in_words(samples)}" for name, samples in judged.items()
    ]
    lines += [
        f"computes     {_device(accelerator)}",
        f"for          {schedule.epochs} epochs of {schedule.samples_per_epoch} samples, batch "
        f"{schedule.batch}; how long is told once its steps are timed",
        f"into         {out}",
    ]
    return "\n".join(lines)


def _device(accelerator: Accelerator) -> str:
    """What all processes compute on, and how precisely."""
    if accelerator.device.type == "cuda":
        name = torch.cuda.get_device_name(accelerator.device)
    else:
        threads = torch.get_num_threads()
        name = f"CPU, {threads} thread{'s' if threads > 1 else ''}"
    precision = {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    count = accelerator.num_processes
    return f"{f'{count} processes, each on ' if count > 1 else ''}{name}, {precision}"


def _millions(model: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f}"
