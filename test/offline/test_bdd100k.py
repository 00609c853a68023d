"""The recipe for BDD100K on several GPUs, dry: its stages by two processes over gloo, on a
miniature in the layout of the data set.

What CHANGES sets otherwise is sizes, the network's too, and lengths, and what so short a training
cannot bear: cuts are not tried, no loss by quantising is too large, and one int8 variant is made.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mtc_perception.core.bundle import read_bundle
from mtc_perception.core.engine import Network
from mtc_perception.core.input_size import InputSize
from offline_compress.models.registry import load_spec
from offline_compress.quantization.int8_tensorrt import build, can_build
from offline_compress.recipe.recipe import load_recipe
from support import mini_data
from support.checkout import ROOT
from support.tiny_networks import TINY_QUERIES
from support.tiny_training import LAUNCH

RECIPE = ROOT / "config" / "recipes" / "rmt_ppad_l.yaml"
LIMIT_S = 1500
"""The machine may be busy."""
BATCH = 2
SHORT = {"samples_per_epoch": BATCH, "batch": BATCH, "warmup_epochs": 0, "validate_every_epochs": 1}
CHANGES = {
    "arguments": TINY_QUERIES | {"segmentation": "full"},
    "input": {"height": 64, "width": 96},
    "crop": {"height": 64, "width": 96},
    "closing": {"epochs": 1},
    **{f"schedule.{name}": value for name, value in SHORT.items()},
    **{f"compress.recover.schedule.{name}": value for name, value in SHORT.items()},
    "compress.recover.schedule.epochs": 1,
    "compress.scoring": {"images": 2, "batch": 2},
    "compress.prune.steps": 1,
    "compress.prune.round_to": 1,
    "compress.prune.least_channels": 2,
    # A network of two steps bears no cut: its losses are at the mercy of the statistics.
    "compress.prune.largest_rise": None,
    "compress.quantise": {"variants": ["int8-ort"], "images": 2, "judged_images": 1},
    "compress.quantise.tolerance": 100,
}


def launched(folder: Path, command: str, **changes: object) -> str:
    """What `mtc-compress COMMAND` of two processes in `folder` says."""
    sets = [f"--set={name}={json.dumps(value)}" for name, value in (CHANGES | changes).items()]
    launcher = ["-m", "accelerate.commands.launch", *LAUNCH, "--num_processes", "2"]
    ended = subprocess.run(
        [
            *(sys.executable, *launcher, "--main_process_port", "0", "-m", "offline_compress.cli"),
            *(command, "--recipe", str(RECIPE), *sets),
        ],
        cwd=folder,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
    return ended.stdout


@pytest.mark.slow
def test_the_whole_recipe_runs_in_two_processes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        mini_data.bdd100k(tmp_path / "data" / "bdd100k", split)
    run = tmp_path / "runs" / "rmt_ppad_l"
    said = launched(tmp_path, "train", **{"schedule.epochs": 2})
    assert said.count("epoch 2/2") == 1
    assert torch.load(run / "state.pt", weights_only=True)["step"] == 2

    # Goes on with the training first, and then through the stages.
    said = launched(tmp_path, "quantize", **{"schedule.epochs": 3})
    assert said.count("epoch 3/3") == 1
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [1, 2, 3]

    compressed = tmp_path / "runs" / "rmt_ppad_l-compressed"
    plan = json.loads((compressed / "prune" / "plan.json").read_text())
    whole, student = (load_spec(path / "best") for path in (run, compressed / "recover"))
    assert student.shapes
    assert student.arguments == whole.arguments
    assert plan["decoder_layers"] is None
    bundle = read_bundle(compressed / "rmt_ppad_l_student.mtc")
    assert set(bundle.manifest.variants) == {"fp32", "int8-ort"}
    assert bundle.manifest.input.size == InputSize(64, 96)
    if can_build():
        assert build(Network.of(bundle, "fp32"))["engine_bytes"] > 1000
    (report,) = json.loads((compressed / "quantise.json").read_text()).values()
    assert report["metrics"]["lane"]["images"] == 1
    assert not list(compressed.rglob("latency.json")), "a budget of parameters times nothing"


def test_the_recipe_is_for_one_to_eight_gpus_and_says_so() -> None:
    recipe = load_recipe(RECIPE)
    schedules = (recipe.schedule, recipe.compression().recover.schedule)
    for count in (1, 2, 3, 4, 6, 8):
        assert all(one.batch % count == 0 for one in schedules)
    assert recipe.compression().prune.cost == "parameters"
    # As much of the image as the input: 24 rows of padding in 384.
    assert 720 * recipe.input.width / 1280 == recipe.input.height - 24
    for found in re.findall(r"--num_processes (\d+)", RECIPE.read_text()):
        assert recipe.schedule.batch % int(found) == 0


def test_the_originals_input_is_one_setting_away() -> None:
    size = {"height": 640, "width": 640}
    changes = [f"input={json.dumps(size | {'fit': 'stretch'})}", f"crop={json.dumps(size)}"]
    assert load_recipe(RECIPE, changes).input.size == InputSize(640, 640, "stretch")
