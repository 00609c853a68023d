"""Networks: shapes, checkpoints that carry their shape, and what a damaged one says."""

import json
from pathlib import Path

import pytest
import torch

from mtc_perception.errors import UserError
from offline_compress.export import count_parameters
from offline_compress.models.registry import (
    MODELS,
    SPEC_FILE,
    WEIGHTS_FILE,
    ModelSpec,
    load_checkpoint,
    model_spec,
    save_checkpoint,
)


@pytest.fixture
def spec() -> ModelSpec:
    return model_spec("mtc_nano", ["vehicle"], 64, 96)


@pytest.mark.parametrize("name", MODELS)
def test_shapes_follow_the_input(name: str) -> None:
    model = model_spec(name, ["vehicle", "person"], 64, 96).build().eval()
    with torch.no_grad():
        output = model(torch.zeros(2, 3, 64, 96))
    cells = sum((64 // s) * (96 // s) for s in (8, 16, 32))
    assert output.detections.logits.shape == (2, cells, 2)
    assert output.detections.boxes.shape == (2, cells, 4)
    assert output.detections.centers.shape == (cells, 2)
    assert output.drivable.shape == output.lane.shape == (2, 64, 96)
    for tap, stride in {"c3": 8, "c4": 16, "c5": 32, "p3": 8, "p4": 16, "p5": 32}.items():
        assert output.features[tap].shape[-2:] == (64 // stride, 96 // stride)
    boxes = output.detections.boxes
    assert (boxes[..., 2:] > boxes[..., :2]).all()


def test_cell_centers_are_row_major_and_in_pixels() -> None:
    model = model_spec("mtc_nano", ["vehicle"], 64, 96).build().eval()
    with torch.no_grad():
        found = model(torch.zeros(1, 3, 64, 96)).detections
    assert found.centers[0].tolist() == [4, 4]
    assert found.centers[1].tolist() == [12, 4]
    assert found.centers[12].tolist() == [4, 12]
    assert found.strides[[0, 96, -1]].tolist() == [8, 16, 32]


def test_nano_keeps_its_size_limit() -> None:
    model = model_spec("mtc_nano", ["vehicle"], 384, 640).build()
    assert count_parameters(model) <= 3_000_000


def test_checkpoint_reloads_to_the_same_outputs(spec: ModelSpec, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = spec.build().eval()
    save_checkpoint(tmp_path / "c", spec, model)
    again = load_checkpoint(tmp_path / "c")
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(model(image).lane, again(image).lane)
    assert not again.training


def test_a_checkpoint_needs_no_registered_name(spec: ModelSpec, tmp_path: Path) -> None:
    slim = ModelSpec("slim", spec.architecture, {**spec.arguments, "pyramid": 24}, ["v"], 64, 96)
    save_checkpoint(tmp_path / "c", slim, slim.build())
    assert load_checkpoint(tmp_path / "c").encoder.lateral[0][0].out_channels == 24  # type: ignore[union-attr,index]


def test_refusals_name_the_file(spec: ModelSpec, tmp_path: Path) -> None:
    path = tmp_path / "c"
    with pytest.raises(UserError, match=r"no spec\.json"):
        load_checkpoint(path)
    save_checkpoint(path, spec, spec.build())
    whole = (path / WEIGHTS_FILE).read_bytes()
    (path / WEIGHTS_FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"model\.safetensors does not load"):
        load_checkpoint(path)
    (path / WEIGHTS_FILE).write_bytes(whole)
    content = json.loads((path / SPEC_FILE).read_text())
    content["arguments"]["pyramid"] = 32
    (path / SPEC_FILE).write_text(json.dumps(content))
    with pytest.raises(UserError, match="does not load"):
        load_checkpoint(path)
    content["architecture"] = "unheard_of"
    (path / SPEC_FILE).write_text(json.dumps(content))
    with pytest.raises(UserError, match="unknown architecture"):
        load_checkpoint(path)
    (path / SPEC_FILE).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(path)
    with pytest.raises(UserError, match="known: "):
        model_spec("mtc_giant", ["vehicle"], 64, 96)
