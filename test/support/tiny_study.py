"""A study in miniature: synthetic roads named like drives, and processes of it that die."""

import json
from pathlib import Path
from typing import Any

import yaml

from mtc_perception.metrics import bootstrap
from offline_compress import cli
from offline_compress.pruning import checks
from offline_compress.roads.road_dataset import write_dataset
from support.tiny_pipeline import LOOSE, dying, in_process, small_world
from support.tiny_training import tiny_recipe

DRIVES = {"north": ["A*"], "south": ["B*"]}
STUDY = "study.yaml"


def write_study(folder: Path, **fields: Any) -> Path:
    """Data of two drives, a further set, what guards pruning, and a study of seconds."""
    write_dataset(folder / "drives", 8, 192, 128, seed=3, val_fraction=1 / 4, workers=1)
    for split in ("train", "val"):
        _name_drives(folder / "drives", split)
    write_dataset(folder / "other", 2, 192, 128, seed=4, workers=1)
    write_dataset(folder / "check", 2, 192, 128, seed=5, workers=1)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe()))
    (folder / STUDY).write_text(yaml.safe_dump(study() | fields))
    return folder / STUDY


def recipe() -> dict[str, Any]:
    """One step everywhere."""
    schedule = {"epochs": 1, "samples_per_epoch": 4}
    content = json.loads(tiny_recipe(Path("drives"), schedule).model_dump_json())
    content["train"][0]["root"] = "drives"  # a path only where it exists; else a data set's name
    content["validate_on"] = [{"root": "check", "split": "train"}]
    content["checkpoint_minutes"] = 0
    content["compress"] = {
        "scoring": {"images": 4, "batch": 2},
        "prune": {
            "budget": {"parameters": 0.7},
            "cost": "macs",
            "steps": 1,
            "round_to": 1,
            "least_channels": 2,
            "guard": LOOSE,
        },
        "recover": {"schedule": dict(content["schedule"])},
        "quantise": {"variants": []},
    }
    return content


def study() -> dict[str, Any]:
    """A control, a student, the same recovered in another way, and a network trained directly."""
    return {
        "name": "mini",
        "recipe": "recipe.yaml",
        "held_out": {
            "root": "drives",
            "splits": ["train", "val"],
            "drives": DRIVES,
            "thin": {"A*": 2},
            "conditions": {"light": {"dusk": ["A*"], "day": ["B*"]}},
        },
        "evaluate_on": [{"root": "other", "split": "train"}],
        "seeds": [0, 1],
        "rows": [
            {"name": "control", "kind": "control"},
            {"name": "half", "kind": "student"},
            {
                "name": "taught",
                "kind": "student",
                "pruned_by": "half",
                "set": {"compress.recover.distillation": {"weight": 0, "masks": 1}},
            },
            {"name": "direct", "kind": "direct", "set": {"schedule.epochs": 2}},
        ],
        "reference": "control",
        "margins": {"detection.map50": 1.5, "drivable.miou": 100},
    }


def run(folder: Path, *words: str, stop_at: int = 0, how: int = 9) -> int:
    """Exit code of `mtc-compress study STUDY` in a process of its own; negative: the signal that
    killed it at the `stop_at`-th file."""
    return in_process(_study, folder, words, stop_at, how)


def _study(folder: Path, words: tuple[str, ...], stop_at: int, how: int) -> None:
    import sys

    small_world(folder)
    bootstrap.RESAMPLES = 20
    # Boxes of a network of one step nearly coincide: which one suppression keeps is a matter of
    # the last bit.
    checks.MOST_UNPAIRED = 1.0
    files = dying(stop_at, how)
    sys.argv = ["mtc-compress", "study", STUDY, *words]
    try:
        cli.main()
    finally:
        Path("files").write_text(str(files()))


def _name_drives(root: Path, split: str) -> None:
    """The first half of a split is drive A, the second one drive B."""
    coco = json.loads((root / "det" / f"{split}.json").read_text())
    stems = sorted(path.stem for path in (root / "images" / split).iterdir())
    names = {stem: f"{'AB'[2 * k // len(stems)]}_{split}_{k:04}" for k, stem in enumerate(stems)}
    for task in ("images", "drivable", "lane"):
        for path in (root / task / split).iterdir():
            path.rename(path.with_stem(names[path.stem]))
    for image in coco["images"]:
        path = Path(image["file_name"])
        image["file_name"] = path.with_stem(names[path.stem]).name
    (root / "det" / f"{split}.json").write_text(json.dumps(coco))
