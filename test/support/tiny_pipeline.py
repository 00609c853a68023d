"""A whole compression in miniature, and processes of it that die where they are told to."""

import hashlib
import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from offline_compress.evaluation import latency
from offline_compress.pipeline.pipeline import run_pipeline
from offline_compress.recipe.recipe import Recipe, load_recipe
from offline_compress.roads.road_dataset import write_dataset
from offline_compress.training import lineage
from support.clean_process import PROCESSES
from support.tiny_training import register, tiny_recipe

LOOSE = {"detection": 100, "drivable": 100, "lane": 100}


def write_workspace(folder: Path) -> Path:
    """Synthetic roads and a recipe of seconds, for processes that work in `folder`; the recipe."""
    write_dataset(folder / "roads", 6, 192, 128, seed=3, val_fraction=1 / 3, workers=1)
    recipe = json.loads(tiny_recipe(Path("roads")).model_dump_json())
    recipe["train"][0]["root"] = "roads"  # a path only where it exists; else the name of a data set
    recipe["validate_on"] = {"root": "roads", "split": "val"}
    recipe["tune_on"] = {"root": "roads", "split": "train"}
    recipe["checkpoint_minutes"] = 0
    recipe["compress"] = {
        "scoring": {"images": 4, "batch": 2},
        "prune": {
            "budget": {"parameters": 0.7},
            "cost": "macs",
            "steps": 2,
            "round_to": 1,
            "least_channels": 2,
            "guard": LOOSE,
        },
        # A copy: YAML would make one part of both, and a change of one a change of the other.
        "recover": {"schedule": dict(recipe["schedule"])},
        "quantise": {"variants": []},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def small_world(folder: Path) -> None:
    """What a process needs before it compresses: the network, one thread, a quick stop watch."""
    os.chdir(folder)
    register()
    torch.set_num_threads(1)
    latency.LOADS, latency.BLOCKS, latency.RUNS_PER_BLOCK = 1, 2, 1
    # The checkout may move on between two runs that are compared.
    lineage.provenance = lambda: {"commit": "test"}  # type: ignore[assignment]


def compress(folder: Path, changes: Sequence[str], out: str, stop_at: int, how: int) -> None:
    """Run the pipeline in this process, and send it signal `how` at the `stop_at`-th file that is
    put in place: odd ones are there by then, even ones are not.

    If it lives, the number of files of the first whole run is in `OUT.count`.
    """
    small_world(folder)
    files = dying(stop_at, how)
    recipe: Recipe = load_recipe(Path("tiny.yaml"), changes)
    run_pipeline(recipe, Path(out), "mtc-compress run", redo=True)
    counted_in = Path(f"{out}.count")
    if not counted_in.exists():
        counted_in.write_text(str(files()))


def dying(stop_at: int, how: int) -> Callable[[], int]:
    """Send this process signal `how` at the `stop_at`-th file that is put in place; returns what
    tells how many there were."""
    count = 0
    replace: Callable[..., None] = os.replace

    def counted(*arguments: Any, **named: Any) -> None:
        nonlocal count
        count += 1
        if count == stop_at and not stop_at % 2:
            os.kill(os.getpid(), how)
        replace(*arguments, **named)
        if count == stop_at and stop_at % 2:
            os.kill(os.getpid(), how)

    os.replace = counted  # type: ignore[assignment]
    return lambda: count


def run(
    folder: Path,
    out: str,
    changes: Sequence[str] = (),
    stop_at: int = 0,
    how: int = signal.SIGKILL,
) -> int:
    """Exit code of `compress` in a process of its own; negative: the signal that killed it."""
    return in_process(compress, folder, changes, out, stop_at, how)


def in_process(target: Callable[..., None], *arguments: Any) -> int:
    """Exit code of a function in a clean process that has imported everything."""
    process = PROCESSES.Process(target=target, args=arguments)
    process.start()
    process.join(600)
    code = process.exitcode
    assert code is not None, "the pipeline hangs"
    return int(code)


def outcome(out: Path) -> dict[str, Any]:
    """All of a finished run that must not depend on when, or how often, it was killed."""
    result = json.loads((out / "result.json").read_text())
    untimed = ("name", "sha256", "detection", "drivable", "lane", "params", "gmacs")
    plan = json.loads((out / "prune" / "plan.json").read_text())
    steps = [{key: step[key] for key in step if "latency" not in key} for step in plan.pop("steps")]
    files = ["prune/best/model.safetensors", "recover/best/model.safetensors"]
    files += ["prune/step_1/scores.safetensors"]
    files += [str(p.relative_to(out)) for p in sorted(out.glob("*.mtc/*.onnx"))]
    return {
        "teacher": {key: result["teacher"][key] for key in untimed},
        "student": {key: result["student"][key] for key in untimed},
        "plan": plan,
        "steps": steps,
        "files": {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in files},
    }
