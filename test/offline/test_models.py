"""Networks: shapes, checkpoints that carry their shape, and what a damaged one says."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from mtc_perception.util.errors import UserError
from offline_compress.export import count_parameters
from offline_compress.models.heads import DenseDetections, MaskHead
from offline_compress.models.registry import (
    MODELS,
    WEIGHTS_FILE,
    ModelSpec,
    load_checkpoint,
    load_spec,
    model_spec,
    save_checkpoint,
)


@pytest.fixture
def spec() -> ModelSpec:
    return model_spec("mtc_xs", ["vehicle"], 64, 96)


@pytest.mark.parametrize("name", MODELS)
def test_shapes_follow_the_input(name: str) -> None:
    model = model_spec(name, ["vehicle", "person"], 64, 96).build().eval()
    with torch.no_grad():
        output = model(torch.zeros(2, 3, 64, 96))
    cells = sum((64 // s) * (96 // s) for s in (8, 16, 32))
    found = output.detections
    count = cells if isinstance(found, DenseDetections) else model.detection_head.queries
    assert found.logits.shape == (2, min(count, cells), 2)
    assert found.boxes.shape == (2, min(count, cells), 4)
    assert output.drivable.shape == output.lane.shape == (2, 64, 96)
    for tap, stride in {"c3": 8, "c4": 16, "c5": 32, "p3": 8, "p4": 16, "p5": 32}.items():
        assert output.features[tap].shape[-2:] == (64 // stride, 96 // stride)
    assert (found.boxes[..., 2:] > found.boxes[..., :2]).all()


def test_cell_centers_are_row_major_and_in_pixels() -> None:
    model = model_spec("mtc_xs", ["vehicle"], 64, 96).build().eval()
    with torch.no_grad():
        found = model(torch.zeros(1, 3, 64, 96)).detections
    assert found.centers.shape == (96 + 24 + 6, 2)
    assert found.centers[0].tolist() == [4, 4]
    assert found.centers[1].tolist() == [12, 4]
    assert found.centers[12].tolist() == [4, 12]
    assert found.strides[[0, 96, -1]].tolist() == [8, 16, 32]


def test_a_mask_is_a_bilinear_step_from_the_sub_cells() -> None:
    head = MaskHead(8, 8).eval()
    x = torch.randn(2, 8, 5, 7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = head(x)
        sub_cells = F.pixel_shuffle(head.predict(head.tower(x)), 2)
    wanted = F.interpolate(sub_cells, scale_factor=2.0, mode="bilinear")[:, 0]
    torch.testing.assert_close(found[:, 1:-1, 1:-1], wanted[:, 1:-1, 1:-1])
    # At the border the other sub-cell of the same cell stands for the one beyond it.
    torch.testing.assert_close(
        found[:, 0, 1], 0.75 * wanted_row(sub_cells, 0) + 0.25 * wanted_row(sub_cells, 1)
    )


def wanted_row(sub_cells: torch.Tensor, row: int) -> torch.Tensor:
    """The second pixel of a row of sub-cells, from its first two."""
    return 0.75 * sub_cells[:, 0, row, 0] + 0.25 * sub_cells[:, 0, row, 1]


def test_nano_keeps_its_size_limit() -> None:
    model = model_spec("mtc_xs", ["vehicle"], 384, 640).build()
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


def test_a_checkpoint_is_one_file(spec: ModelSpec, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", spec, spec.build())
    assert [file.name for file in (tmp_path / "c").iterdir()] == [WEIGHTS_FILE]
    assert load_spec(tmp_path / "c") == spec


def test_weights_without_a_spec_are_no_checkpoint(spec: ModelSpec, tmp_path: Path) -> None:
    save_file(spec.build().state_dict(), tmp_path / WEIGHTS_FILE)
    with pytest.raises(UserError, match="no checkpoint of ours: it has no spec"):
        load_spec(tmp_path)


def one_line(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_refusals_name_file_and_reason(spec: ModelSpec, tmp_path: Path) -> None:
    path = tmp_path / "c"
    assert "does not exist" in one_line(path)
    model = spec.build()
    save_checkpoint(path, spec, model)
    whole = (path / WEIGHTS_FILE).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"{}"):
        (path / WEIGHTS_FILE).write_bytes(damaged)
        assert "model.safetensors does not load" in one_line(path)
    save_checkpoint(path, replace(spec, arguments={**spec.arguments, "pyramid": 32}), model)
    assert re.search(
        r"lateral.0.0.weight is \[64, .*\], not \[32, .*\], and \d+ more", one_line(path)
    )
    save_checkpoint(path, replace(spec, arguments={**spec.arguments, "wheels": 4}), model)
    assert "do not fit architecture conv_multitask" in one_line(path)
    save_checkpoint(path, replace(spec, architecture="unheard_of"), model)
    assert "unknown architecture 'unheard_of'; known: conv_multitask" in one_line(path)
    save_checkpoint(path, spec, torch.nn.Conv2d(3, 8, 3))
    assert "is missing, and" in one_line(path)
    with pytest.raises(UserError, match="known: mtc_xs"):
        model_spec("mtc_giant", ["vehicle"], 64, 96)
