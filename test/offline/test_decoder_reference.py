"""The query decoder against slow and independent references."""

import math

import numpy as np
import torch
from torch import nn

from offline_compress.models.decoder import QueryDecoder
from offline_compress.models.deformable import DeformableAttention
from support.decoder_rig import CLASSES, QUERIES, SIZE, WIDTH, decoder, in_training, lively, pyramid


def slow_bilinear(level: np.ndarray, x: float, y: float) -> np.ndarray:
    """Value of [C, H, W] at the point (x, y), both fractions of the map; nothing outside."""
    _, height, width = level.shape
    column, row = x * width - 0.5, y * height - 0.5
    value = np.zeros(len(level))
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(column), math.floor(column) + 1):
            if 0 <= r < height and 0 <= c < width:
                value += level[:, r, c] * (1 - abs(row - r)) * (1 - abs(column - c))
    return value


def test_deformable_attention_matches_a_loop_over_points() -> None:
    heads, levels, points, head_width = 2, 3, 3, 4
    width = heads * head_width
    torch.manual_seed(0)
    attention = DeformableAttention(width, heads, levels, points)
    lively(attention)
    shapes = [(6, 9), (3, 5), (2, 2)]
    memory = torch.randn(2, sum(h * w for h, w in shapes), width)
    query, boxes = torch.randn(2, 5, width), torch.rand(2, 5, 4)
    with torch.no_grad():
        got = attention(query, boxes, memory, shapes).numpy()
        value = attention.value(memory).numpy()
        offset = attention.offsets(query).reshape(2, 5, heads, levels, points, 2).numpy()
        weight = attention.weights(query).reshape(2, 5, heads, levels * points).softmax(-1)
    weight = weight.reshape(2, 5, heads, levels, points).numpy()
    starts = np.cumsum([0] + [h * w for h, w in shapes])
    read = np.zeros((2, 5, width))
    for n, q, h, level, p in np.ndindex(2, 5, heads, levels, points):
        cx, cy, w, tall = boxes[n, q].tolist()
        dx, dy = offset[n, q, h, level, p]
        cells = value[n, starts[level] : starts[level + 1]].reshape(*shapes[level], width)
        mine = cells[:, :, h * head_width : (h + 1) * head_width].transpose(2, 0, 1)
        point = slow_bilinear(mine, cx + dx / points * w / 2, cy + dy / points * tall / 2)
        read[n, q, h * head_width : (h + 1) * head_width] += weight[n, q, h, level, p] * point
    with torch.no_grad():
        expected = attention.out(torch.from_numpy(read).float()).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)


def reference_model() -> nn.Module:
    """transformers' RT-DETR of the same shape as `decoder()`, random weights."""
    from transformers import RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection

    config = RTDetrV2Config(
        backbone_config=RTDetrResNetConfig(
            embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], layer_type="basic"
        ),
        encoder_in_channels=[8, 8, 8],
        encoder_hidden_dim=WIDTH,
        encoder_ffn_dim=16,
        encoder_attention_heads=4,
        decoder_in_channels=[WIDTH] * 3,
        d_model=WIDTH,
        decoder_ffn_dim=48,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_n_points=3,
        num_queries=QUERIES,
        num_labels=CLASSES,
        num_denoising=0,
        anchor_image_size=None,
        disable_custom_kernels=True,
    )
    return RTDetrV2ForObjectDetection(config)


def copy_weights(model: nn.Module, ours: QueryDecoder) -> None:
    """Weights of `ours` into transformers' modules, which split what we keep together."""

    def put(target: nn.Module, source: nn.Module) -> None:
        target.load_state_dict(source.state_dict())

    def put_perceptron(target: nn.Module, source: nn.Module) -> None:
        linear = [m for m in source if isinstance(m, nn.Linear)]  # type: ignore[attr-defined]
        for theirs, mine in zip(target.layers, linear, strict=True):  # type: ignore[arg-type]
            put(theirs, mine)

    theirs = model.model
    for level, project in enumerate(ours.project):
        put(theirs.decoder_input_proj[level][0], project[0])  # type: ignore[index,union-attr]
        put(theirs.decoder_input_proj[level][1], project[1])  # type: ignore[index,union-attr]
    put(theirs.enc_output[0], ours.propose[0])
    put(theirs.enc_output[1], ours.propose[1])
    put(theirs.enc_score_head, ours.proposal_score)
    put_perceptron(theirs.enc_bbox_head, ours.proposal_box)
    put_perceptron(theirs.decoder.query_pos_head, ours.position)
    for index, layer in enumerate(ours.layers):
        other = theirs.decoder.layers[index]
        weights, biases = layer.self_attention.in_proj_weight, layer.self_attention.in_proj_bias
        for name, weight, bias in zip(
            ("q_proj", "k_proj", "v_proj"), weights.chunk(3), biases.chunk(3), strict=True
        ):
            projection = getattr(other.self_attn, name)
            projection.load_state_dict({"weight": weight, "bias": bias})
        put(other.self_attn.o_proj, layer.self_attention.out_proj)
        put(other.encoder_attn.sampling_offsets, layer.cross_attention.offsets)
        put(other.encoder_attn.attention_weights, layer.cross_attention.weights)
        put(other.encoder_attn.value_proj, layer.cross_attention.value)
        put(other.encoder_attn.output_proj, layer.cross_attention.out)
        put(other.mlp.fc1, layer.feed_forward[0])
        put(other.mlp.fc2, layer.feed_forward[2])
        put(other.self_attn_layer_norm, layer.self_norm)
        put(other.encoder_attn_layer_norm, layer.cross_norm)
        put(other.final_layer_norm, layer.feed_norm)
        put(theirs.decoder.class_embed[index], ours.score_heads[index])
        put_perceptron(theirs.decoder.bbox_embed[index], ours.box_heads[index])


def as_pixels(boxes: torch.Tensor) -> torch.Tensor:
    """Centre x, y, width, height in fractions -> corners in pixels."""
    scale = torch.tensor([SIZE[1], SIZE[0]])
    centre, extent = boxes[..., :2] * scale, boxes[..., 2:] * scale
    return torch.cat((centre - extent / 2, centre + extent / 2), -1)


def test_every_layer_matches_transformers() -> None:
    from transformers.modeling_outputs import BaseModelOutput

    ours, model = decoder(), reference_model()
    copy_weights(model, ours)
    model.eval()
    in_training(ours)  # for the auxiliary outputs
    features = pyramid()
    with torch.no_grad():
        got = ours(features, SIZE)
        expected = model(
            pixel_values=None,
            inputs_embeds=torch.zeros(2, 1),
            encoder_outputs=BaseModelOutput(last_hidden_state=features),
        )
    assert len(got.auxiliary) == 2
    pairs = [
        (got.auxiliary[0].logits, expected.enc_topk_logits),
        (got.auxiliary[0].boxes, as_pixels(expected.enc_topk_bboxes)),
        (got.auxiliary[1].logits, expected.intermediate_logits[:, 0]),
        (got.auxiliary[1].boxes, as_pixels(expected.intermediate_reference_points[:, 0])),
        (got.logits, expected.logits),
        (got.boxes, as_pixels(expected.pred_boxes)),
    ]
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
    assert got.boxes.std() > 5  # not one and the same box throughout
