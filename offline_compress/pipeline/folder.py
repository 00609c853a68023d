"""The folder of a compression run: what lies where, and what is known from the start."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mtc_perception.core.bundle import sha256_hex
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import write_text_atomic
from mtc_perception.util.provenance import provenance
from offline_compress.models.registry import WEIGHTS_FILE
from offline_compress.pipeline.stages import digest_of
from offline_compress.recipe.compression import Compression
from offline_compress.recipe.recipe import Recipe

RUNS = Path("runs")
RECIPE_FILE, RUN_FILE, RESULT_FILE = "recipe.yaml", "run.json", "result.json"
LOG_FILE, DRY_RUN = "run.log", "dry_run"
"""What may lie in a folder before a run begins there: see bench/ablation.py and `dry_run`."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A recipe with `compress`, and the folder in which it is carried out."""

    recipe: Recipe
    path: Path

    @classmethod
    def of(cls, recipe: Recipe, out: Path | None) -> "RunFolder":
        """`out`, or runs/NAME-compressed. Raises UserError for a recipe without `compress`."""
        recipe.compression()
        return cls(recipe, out or RUNS / f"{recipe.name}-compressed")

    @property
    def compress(self) -> Compression:
        """The recipe's `compress`."""
        return self.recipe.compression()

    @property
    def compressing(self) -> Recipe:
        """The recipe with the seed of the compression instead of the teacher's."""
        return self.recipe.model_copy(update={"seed": self.compress.seed})

    @property
    def teacher(self) -> Path:
        """Checkpoint folder of the unpruned network."""
        return self.compress.teacher or RUNS / self.recipe.name / "best"

    @property
    def prune(self) -> Path:
        """Folder of the pruning steps, the plan, and the pruned checkpoint `best/`."""
        return self.path / "prune"

    @property
    def plan(self) -> Path:
        """What pruning removed, and what was measured on the way."""
        return self.prune / "plan.json"

    @property
    def pruned(self) -> Path:
        """Checkpoint folder of the pruned network, not recovered yet."""
        return self.prune / "best"

    @property
    def scores(self) -> Path:
        """Importance and conflict of the channels at the first step."""
        return self.prune / "step_1" / "scores.safetensors"

    @property
    def latency_table(self) -> Path:
        """Times of the layers on the target engine, if the recipe needs them."""
        return self.prune / "latency.json"

    @property
    def sensitivity(self) -> Path:
        """What the widths of layers were worth at the first step, if the recipe goes by that."""
        return self.prune / "step_1" / "sensitivity.json"

    @property
    def recover(self) -> Path:
        """Folder of the training run after pruning."""
        return self.path / "recover"

    @property
    def student(self) -> Path:
        """Checkpoint folder of the finished student."""
        return self.recover / "best"

    @property
    def student_name(self) -> str:
        """Of the bundle and in its manifest."""
        return self.compress.student or f"{self.recipe.name}_student"

    @property
    def exported(self) -> Path:
        """The bundle with the fp32 variant alone."""
        return self.path / "export" / f"{self.student_name}.mtc"

    @property
    def bundle(self) -> Path:
        """The bundle with all variants."""
        return self.path / f"{self.student_name}.mtc"

    @property
    def quantised(self) -> Path:
        """How every variant was made: layers in float, losses, their ranking."""
        return self.path / "quantise.json"

    @property
    def metrics(self) -> Path:
        """Folder of the metric files of teacher, student and variants."""
        return self.path / "metrics"

    @property
    def result(self) -> Path:
        """The run as one row of a table."""
        return self.path / RESULT_FILE

    @property
    def dry_run(self) -> Path:
        """Folder of what `--dry-run` chooses: one for every network, scoring and pruning."""
        of = [digest_of(weights(self.teacher)), self.compress.scoring, self.compress.prune]
        return self.path / DRY_RUN / sha256_hex(repr(of).encode())[:12]

    def require_own(self) -> None:
        """Raise UserError if the folder holds something else than a run, which would be deleted."""
        if not self.path.exists() or (self.path / RUN_FILE).is_file():
            return
        if not self.path.is_dir():
            raise UserError(f"{self.path} is no folder; give another --out")
        known = {LOG_FILE, DRY_RUN}
        # Hidden: the lock, and what a killed process was about to put in place.
        others = (one.name for one in self.path.iterdir() if not one.name.startswith("."))
        if foreign := sorted(name for name in others if name not in known):
            raise UserError(
                f"{self.path} is not empty and holds no compression run, but {foreign[0]}; give "
                "another --out"
            )

    def open(self, command: str) -> None:
        """Leave the recipe, and the command that carries it out, in the folder, which exists."""
        text = yaml.safe_dump(self.recipe.model_dump(mode="json"), sort_keys=False)
        recipe_file = self.path / RECIPE_FILE
        if recipe_file.exists() and recipe_file.read_text() == text and self._known(command):
            return
        origin = provenance() | {"command": command}
        write_text_atomic(self.path / RUN_FILE, json.dumps(origin, indent=2) + "\n")
        write_text_atomic(recipe_file, text)

    def _known(self, command: str) -> bool:
        try:
            return bool(self.begun()["command"] == command)
        except (OSError, ValueError, KeyError):
            return False  # and is written anew

    def begun(self) -> dict[str, Any]:
        """Command, commit, machine and versions with which the run began."""
        content: dict[str, Any] = json.loads((self.path / RUN_FILE).read_text())
        return content


class RunStage:
    """What the stages of a run have in common: its folder."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run


def weights(checkpoint: Path) -> Path:
    """The file of a checkpoint folder."""
    return checkpoint / WEIGHTS_FILE
