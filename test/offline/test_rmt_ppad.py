"""The RMT-PPAD-class network: gates, mask decoders, deployment, one step of training."""

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
import torch_pruning as tp

from offline_compress.data.targets import IGNORE, Targets
from offline_compress.export import DeployGraph, count_gmacs, count_parameters, onnx_graph
from offline_compress.losses.task_losses import task_losses
from offline_compress.models.fuse import fuse
from offline_compress.models.gates import GatedAdapter
from offline_compress.models.registry import MODELS, model_spec
from offline_compress.models.rmt_ppad import RmtPpad
from offline_compress.models.segmentation import FullMaskDecoder, LevelWeights
from support.random_norms import randomise_norms
from support.tiny_networks import TINY_QUERIES


def tiny(segmentation: str = "stride4") -> RmtPpad:
    torch.manual_seed(0)
    model = RmtPpad(**TINY_QUERIES, segmentation=segmentation).eval()
    randomise_norms(model)
    # As initialised, all boxes are their anchors and all scores nearly 0.
    head = model.detection_head
    for linear in (head.proposal_score, *head.score_heads, *(b[-1] for b in head.box_heads)):
        torch.nn.init.normal_(linear.weight, 0, 0.3)
        torch.nn.init.zeros_(linear.bias)
    return model


def targets(height: int, width: int) -> Targets:
    """Two images: one with a vehicle and masks, one where only the lanes are labelled."""
    boxes = torch.tensor([[[10.0, 12, 50, 40], [0, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]]])
    drivable = torch.full((2, height, width), IGNORE, dtype=torch.uint8)
    drivable[0] = 0
    drivable[0, height // 2 :] = 1
    lane = torch.zeros(2, height, width, dtype=torch.uint8)
    lane[:, :, width // 2] = 1
    return Targets(
        boxes, torch.tensor([[0, -1], [-1, -1]]), torch.tensor([True, False]), drivable, lane
    )


def test_gate_stays_between_shared_and_task_features() -> None:
    torch.manual_seed(0)
    gate = GatedAdapter(16).eval()
    shared = torch.randn(2, 16, 6, 10)
    with torch.no_grad():
        task = gate.adapter(shared)
        mixed = (gate(shared) - shared) / (task - shared)
        assert 0.05 - 1e-3 < mixed.median() < 0.95 + 1e-3
        for bias, share in ((100.0, 0.95), (-100.0, 0.05)):
            for conv in (gate.channel_gate[3], gate.spatial_gate[1]):
                torch.nn.init.constant_(conv.bias, bias)
            torch.testing.assert_close(gate(shared), shared + share * (task - shared))


def test_blend_chooses_the_gate_per_channel() -> None:
    torch.manual_seed(0)
    gate = GatedAdapter(8).eval()
    torch.nn.init.constant_(gate.channel_gate[3].bias, 100.0)
    torch.nn.init.constant_(gate.spatial_gate[1].bias, -100.0)
    shared = torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        gate.blend[:] = -100.0
        gate.blend[:, 3] = 100.0
        task = gate.adapter(shared)
        share = torch.full((1, 8, 1, 1), 0.05)
        share[:, 3] = 0.95
        torch.testing.assert_close(gate(shared), shared + share * (task - shared))


def test_tasks_weigh_the_levels_by_themselves() -> None:
    torch.manual_seed(0)
    weights = LevelWeights(8, 4)
    pyramid = [torch.randn(1, 8, 8, 12), torch.randn(1, 8, 4, 6), torch.randn(1, 8, 2, 3)]
    with torch.no_grad():
        weights.weight.copy_(torch.tensor([[60.0, 0, 0], [0, 0, 60.0]]))
        drivable, lane = weights(pyramid)
        torch.testing.assert_close(drivable, weights.project[0](pyramid[0]))
        coarse = weights.project[2](pyramid[2])
        wanted = F.interpolate(coarse, (8, 12), mode="bilinear", align_corners=False)
        torch.testing.assert_close(lane, wanted)
        weights.weight.zero_()
        drivable, lane = weights(pyramid)
        assert torch.equal(drivable, lane)


def test_full_decoder_equals_one_task_at_a_time() -> None:
    """Both tasks share everything behind the level weights, whatever the batch."""
    torch.manual_seed(0)
    decoder = FullMaskDecoder(8, 4).eval()
    torch.nn.init.normal_(decoder.weights.weight)
    pyramid = [torch.randn(3, 8, 8 // s, 12 // s) for s in (1, 2, 4)]
    with torch.no_grad():
        drivable, lane = decoder(pyramid, torch.empty(0))
        assert drivable.shape == lane.shape == (3, 64, 96)
        decoder.weights.weight.copy_(decoder.weights.weight.flip(0))
        swapped_drivable, swapped_lane = decoder(pyramid, torch.empty(0))
    torch.testing.assert_close(swapped_lane, drivable)
    torch.testing.assert_close(swapped_drivable, lane)
    assert not torch.allclose(drivable, lane)


@pytest.mark.parametrize("segmentation", ["full", "stride4"])
def test_fused_computes_the_same(segmentation: str) -> None:
    model = tiny(segmentation)
    fused = fuse(model)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        plain, merged = model(image), fused(image)
    torch.testing.assert_close(merged.drivable, plain.drivable, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(merged.lane, plain.lane, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(merged.features["p3"], plain.features["p3"], rtol=1e-4, atol=1e-4)
    assert plain.lane.std() > 1e-3
    assert count_parameters(model) == count_parameters(fused)
    assert count_gmacs(model, 64, 96) == count_gmacs(fused, 64, 96)


@pytest.mark.parametrize(
    ("segmentation", "height", "width"), [("full", 96, 64), ("stride4", 64, 96)]
)
def test_exported_graph_computes_the_same(segmentation: str, height: int, width: int) -> None:
    model = tiny(segmentation)
    session = onnxruntime.InferenceSession(
        onnx_graph(model, height, width), providers=["CPUExecutionProvider"]
    )
    image = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    got = session.run(None, {"image": image})
    with torch.no_grad():
        wanted = [tensor.numpy() for tensor in DeployGraph(model)(torch.from_numpy(image))]
    np.testing.assert_allclose(got[1], wanted[1], atol=1e-4)
    # Nearly equal scores may swap places, and the last of the queries.
    nearest = np.abs(got[0][0, :, None] - wanted[0][0]).max(-1).min(1)
    assert (nearest < 0.05).mean() > 0.9
    for mine, theirs in zip(got[3:], wanted[3:], strict=True):
        assert mine.shape == (1, height, width)
        assert theirs.std() > 0
        assert np.abs(mine.astype(int) - theirs).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("segmentation", ["full", "stride4"])
def test_trunk_gates_and_masks_can_be_pruned(segmentation: str) -> None:
    model = tiny(segmentation)
    image = torch.randn(1, 3, 64, 96)
    before = count_parameters(model)
    predictions = [m for name, m in model.named_modules() if name.endswith("predict")]
    pruner = tp.pruner.MagnitudePruner(
        model,
        image,
        tp.importance.MagnitudeImportance(),
        pruning_ratio=0.25,
        ignored_layers=[model.detection_head, model.encoder.attend, *predictions],
        unwrapped_parameters=[
            (gate.blend, 1) for gate in (*model.detection_gates, *model.mask_gates)
        ],
        output_transform=lambda output: [output.drivable, output.lane, output.detections.logits],
    )
    pruner.step()
    with torch.no_grad():
        output = model(image)
    assert output.lane.shape == (1, 64, 96)
    assert count_parameters(model) < 0.85 * before
    assert [output.features[tap].shape[1] for tap in ("c3", "c4", "c5")] == [18, 24, 30]
    assert model.mask_decoder.weights.weight.shape == (2, 3)  # type: ignore[union-attr]


def test_large_has_the_published_size_and_cost() -> None:
    """34.3 M parameters and 210.5 GFLOPs at 640x640 (arXiv 2508.06529), 2 FLOPs per MAC."""
    arguments = MODELS["rmt_ppad_l"][1]
    with torch.device("meta"):  # Shapes without numbers.
        full, stride4 = (
            RmtPpad(**{**arguments, "segmentation": name})  # type: ignore[arg-type]
            for name in ("full", "stride4")
        )
        assert count_parameters(full) == pytest.approx(34.3e6, rel=0.03)
        assert count_parameters(stride4) == pytest.approx(34.3e6, rel=0.03)
        assert count_gmacs(full, 640, 640) == pytest.approx(210.5 / 2, rel=0.03)


def test_small_can_be_trained_on_a_cpu() -> None:
    with torch.device("meta"):
        model = model_spec("rmt_ppad_n", ["vehicle"], 384, 640).build()
        assert 4e6 <= count_parameters(model) <= 6e6
        assert count_gmacs(model, 384, 640) < 5
    assert len(model.detection_head.layers) == 3  # type: ignore[arg-type]


@pytest.mark.slow
def test_one_step_of_training_and_one_of_evaluation() -> None:
    torch.manual_seed(0)
    model = model_spec("rmt_ppad_l", ["vehicle"], 96, 128).build()
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    image, labels = torch.randn(2, 3, 96, 128), targets(96, 128)
    losses = task_losses(model(image, labels), labels)
    losses.total().backward()
    untouched = [name for name, p in model.named_parameters() if p.grad is None]
    # An unlabelled task's embedding aside, everything learns from the three tasks.
    assert not untouched
    optimizer.step()
    model.eval()
    with torch.no_grad():
        boxes, scores, labels_found, drivable, lane = DeployGraph(model)(
            torch.zeros(1, 96, 128, 3, dtype=torch.uint8)
        )
    assert boxes.shape[1:] == (scores.shape[1], 4)
    assert (scores[:, :-1] >= scores[:, 1:]).all()
    assert drivable.shape == lane.shape == (1, 96, 128)
    assert torch.isfinite(scores).all()
    assert labels_found.max() == 0


@pytest.mark.slow
def test_a_batch_without_any_label_still_trains() -> None:
    """What an image lacks contributes nothing: no NaN, and gradients for every rank to reduce."""
    model = tiny().train()
    labels = targets(64, 96)
    empty = replace(
        labels,
        has_boxes=torch.zeros(2, dtype=torch.bool),
        drivable=torch.full_like(labels.drivable, IGNORE),
        lane=torch.full_like(labels.lane, IGNORE),
    )
    loss = task_losses(model(torch.randn(2, 3, 64, 96), empty), empty).total()
    loss.backward()
    assert loss.item() == 0
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.slow
def test_bfloat16_computes_nearly_the_same_losses() -> None:
    model = tiny().train()
    image, labels = torch.randn(2, 3, 64, 96), targets(64, 96)
    # Without denoising, whose noise differs from call to call.
    exact = task_losses(model(image), labels)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(image)
    rounded = task_losses(output, labels)
    rounded.total().backward()
    for name in ("drivable", "lane"):
        assert getattr(rounded, name).item() == pytest.approx(
            getattr(exact, name).item(), rel=0.03
        ), name
    # Other cells may be chosen as queries.
    assert rounded.detection.item() == pytest.approx(exact.detection.item(), rel=0.2)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
