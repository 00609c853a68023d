"""The worked examples of docs/extending.md, taken from the page and run."""

import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mtc_perception.core.bundle import Thresholds, read_bundle
from mtc_perception.core.images import SourceImage
from mtc_perception.datasets import layout
from mtc_perception.engines import load
from mtc_perception.engines import open as engines
from mtc_perception.runtime.perceiver import Perceiver, Selection, open_perceiver
from offline_compress import cli
from offline_compress.export import export_bundle
from offline_compress.models import registry
from support.checkout import ROOT
from support.pruning_tools import registry_groups

PAGE = (ROOT / "docs" / "extending.md").read_text()
THRESHOLDS = Thresholds(score=0.0, drivable=0.5, lane=0.5)
BLOCKS = dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', PAGE, re.DOTALL | re.MULTILINE))
Make = Callable[[str], ModuleType]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Call it with a path on the page for the module, which then is where the page says."""

    def imported(path: str) -> ModuleType:
        name = path.removesuffix(".py").replace("/", ".")
        file = tmp_path / Path(path).name
        file.write_text(BLOCKS[path])
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, made)
        spec.loader.exec_module(made)
        return made

    return imported


def test_an_engine(module: Make, monkeypatch: pytest.MonkeyPatch, toy_bundle: Path) -> None:
    module("mtc_perception/engines/reference.py")
    monkeypatch.setitem(load._MODULES, "reference", "mtc_perception.engines.reference")
    for user in (load, engines):
        monkeypatch.setattr(user, "AUTO_ORDER", ("reference", *load.AUTO_ORDER))
    bundle = read_bundle(toy_bundle)
    variants = {
        key: variant.model_copy(update={"engines": ["reference", *variant.engines]})
        for key, variant in bundle.manifest.variants.items()
    }
    manifest = bundle.manifest.model_copy(update={"variants": variants})
    engine = engines.open_engine(replace(bundle, manifest=manifest)).engine
    assert engine.name == "reference"
    image = SourceImage(np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8), "rgb")
    with (
        Perceiver(bundle, engine) as ours,
        open_perceiver(Selection(toy_bundle, "onnxruntime")) as theirs,
    ):
        found, expected = ours.perceive(image), theirs.perceive(image)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
    np.testing.assert_array_equal(found.drivable, expected.drivable)


def test_a_network(module: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    network = module("offline_compress/models/depthwise.py").DepthwiseMultiTask
    monkeypatch.setattr(registry, "ARCHITECTURES", dict(registry.ARCHITECTURES))
    monkeypatch.setattr(registry, "MODELS", dict(registry.MODELS))
    exec(BLOCKS["registry"], vars(registry) | {"DepthwiseMultiTask": network})
    spec = replace(registry.model_spec("depthwise_n", ["vehicle"], 64, 96), licence="test")
    torch.manual_seed(0)
    registry.save_checkpoint(tmp_path / "c", spec, spec.build())
    assert isinstance(registry.load_checkpoint(tmp_path / "c"), network)
    assert registry_groups(spec.build())
    export_bundle(tmp_path / "c", tmp_path / "d.mtc", THRESHOLDS, None)
    with open_perceiver(Selection(tmp_path / "d.mtc", "onnxruntime")) as perceiver:
        found = perceiver.perceive(SourceImage(np.zeros((90, 160, 3), np.uint8), "rgb"))
    assert found.lane.shape == (90, 160)


def test_a_data_layout(module: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    csv_boxes = module("mtc_perception/datasets/csv_boxes.py")
    names = vars(layout) | {"csv_boxes": csv_boxes}
    exec(BLOCKS["layout"], names)
    monkeypatch.setattr(layout, "LAYOUTS", names["LAYOUTS"])
    for folder in ("images/val", "boxes"):
        (tmp_path / folder).mkdir(parents=True)
    for stem in ("a", "b"):
        cv2.imwrite(str(tmp_path / "images" / "val" / f"{stem}.png"), np.zeros((9, 16, 3), "u1"))
    (tmp_path / "boxes" / "val.csv").write_text("a,1,2,5,6\na,3,3,9,8\n")
    first, second = layout.read_split(tmp_path, "val")
    np.testing.assert_array_equal(first.boxes, [[1, 2, 5, 6], [3, 3, 9, 8]])
    assert second.boxes is None
    (tmp_path / "boxes" / "val.csv").write_text("a,1,2,5\n")
    with pytest.raises(layout.LayoutError, match=re.escape("['a', '1', '2', '5']")):
        layout.read_split(tmp_path, "val")


@pytest.mark.slow
def test_a_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "roads.yaml"
    recipe.write_text(BLOCKS["roads.yaml"])
    small = {
        "crop": "{height: 64, width: 96}",
        "train.0.root": tmp_path / "train",
        "train.0.synthetic": "{count: 4, width: 160, height: 96, seed: 1}",
        "validate_on.root": tmp_path / "val",
        "validate_on.synthetic": "{count: 2, width: 160, height: 96, seed: 2}",
        "schedule.epochs": 2,
        "schedule.samples_per_epoch": 2,
        "schedule.batch": 2,
    }
    changes = [word for field, value in small.items() for word in ("--set", f"{field}={value}")]
    arguments = ["train", "--recipe", str(recipe), "--out", str(tmp_path / "run"), *changes]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "best").is_dir()
