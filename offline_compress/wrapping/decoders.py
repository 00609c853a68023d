"""What a network's outputs say, as boxes, scores and probabilities: in PyTorch, to be exported."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

from mtc_perception.util.errors import UserError
from offline_compress.wrapping.network_map import (
    Anchored,
    AnchorFree,
    Boxes,
    Detection,
    Final,
    Mask,
    NetworkMap,
    Query,
)

Size = tuple[int, int]
"""Height and width of the input in pixels."""
Outputs = Mapping[str, torch.Tensor]
Found = tuple[torch.Tensor, torch.Tensor]
"""Boxes [1, N, 4] x1, y1, x2, y2 in pixels of the input, and scores [1, N, classes]."""


def decoded(outputs: Outputs, wanted: Detection, size: Size) -> Found:
    """Boxes and scores of all of the network's own classes. Raises UserError for outputs that
    cannot be what `wanted` says."""
    match wanted:
        case Boxes():
            return _boxes(outputs, wanted)
        case AnchorFree():
            return _anchor_free(outputs, wanted, size)
        case Anchored():
            return _anchored(outputs, wanted)
        case Query():
            return _queries(outputs, wanted, size)
        case Final():
            return _final(outputs, wanted)


def grouped(scores: torch.Tensor, groups: Sequence[Sequence[int]]) -> torch.Tensor:
    """Scores [1, N, classes] -> [1, N, groups]: the greatest of each group's classes.

    Raises UserError for a class that the network does not have.
    """
    count = scores.shape[-1]
    if wrong := [one for group in groups for one in group if one >= count]:
        raise UserError(
            f"detection.classes: there is no class {wrong[0]}, the network has {count}, from 0 on"
        )
    return torch.stack([scores[..., list(group)].amax(-1) for group in groups], -1)


def probability(outputs: Outputs, name: str, wanted: Mask, size: Size) -> torch.Tensor:
    """Probability [1, H, W] of a mask at the input's size. Raises UserError as `decoded`."""
    values = outputs[wanted.output]
    foreground = list(wanted.channels)
    if values.dim() == 3 and wanted.values == "argmax":
        classes = [values.float() == one for one in foreground]
        whole = torch.stack(classes).any(0).float()[:, None]
        return F.interpolate(whole, size, mode="nearest")[:, 0]
    if values.dim() == 3:
        values = values[:, None]
    if values.dim() != 4 or max(foreground) >= values.shape[1]:
        raise UserError(
            f"{name}: output {wanted.output} is {list(values.shape)}: [1, C, h, w] is needed, with"
            f" the channels {foreground} among the C, counted from 0"
        )
    values = values.float()
    if values.shape[2:] != size:
        values = F.interpolate(values, size, mode="bilinear", align_corners=False)
    match wanted.values:
        case "softmax":
            found = values.softmax(1)[:, foreground].sum(1)
        case "sigmoid":
            found = values[:, foreground].sigmoid().amax(1)
        case "share":
            found = values[:, foreground].sum(1) / values.sum(1).clamp(min=1e-6)
        case "probability":
            found = values[:, foreground].amax(1)
        case "argmax":
            rest = [one for one in range(values.shape[1]) if one not in foreground]
            if not rest:
                raise UserError(f"{name}: argmax needs a channel that is no foreground")
            found = (values[:, foreground].amax(1) > values[:, rest].amax(1)).float()
    return found.clamp(0, 1)


def check_outputs(outputs: Outputs, described: NetworkMap) -> None:
    """Raise UserError unless the network has every output that is described."""
    if missing := [name for name in described.outputs if name not in outputs]:
        shapes = ", ".join(f"{name} {list(one.shape)}" for name, one in outputs.items())
        raise UserError(f"the network has no output {missing[0]}; it has {shapes}")


def _rows(outputs: Outputs, wanted: Boxes | AnchorFree) -> torch.Tensor:
    rows = outputs[wanted.output].float()
    if rows.dim() != 3 or rows.shape[0] != 1:
        raise UserError(
            f"detection: output {wanted.output} is {list(rows.shape)}, [1, N, C] or [1, C, N] is"
            " needed"
        )
    if rows.shape[1] < rows.shape[2]:
        rows = rows.transpose(1, 2)
    least = 5 + wanted.objectness
    if rows.shape[2] < least:
        numbers = "4 of the box, the objectness" if wanted.objectness else "4 of the box"
        raise UserError(
            f"detection: output {wanted.output} has {rows.shape[2]} numbers per box, {least} are"
            f" the least: {numbers} and one of a class"
        )
    return rows


def _scores(rows: torch.Tensor, wanted: Boxes | AnchorFree) -> torch.Tensor:
    values = rows[..., 4:]
    if wanted.values == "sigmoid":
        values = values.sigmoid()
    return values[..., :1] * values[..., 1:] if wanted.objectness else values


def _boxes(outputs: Outputs, wanted: Boxes) -> Found:
    rows = _rows(outputs, wanted)
    corners = rows[..., :4]
    if wanted.form == "centre":
        corners = _corners(rows[..., :2], rows[..., 2:4])
    return corners, _scores(rows, wanted)


def _anchor_free(outputs: Outputs, wanted: AnchorFree, size: Size) -> Found:
    rows = _rows(outputs, wanted)
    cells, steps = [], []
    for stride in wanted.strides:
        cells.append(_grid(size[0] // stride, size[1] // stride).reshape(-1, 2))
        steps.append(torch.full((len(cells[-1]), 1), float(stride)))
    grid, step = torch.cat(cells)[None], torch.cat(steps)[None]
    if rows.shape[1] != grid.shape[1]:
        raise UserError(
            f"detection: output {wanted.output} has {rows.shape[1]} boxes, the grids of the strides"
            f" {list(wanted.strides)} have {grid.shape[1]} cells"
        )
    corners = _corners((rows[..., :2] + grid) * step, rows[..., 2:4].exp() * step)
    return corners, _scores(rows, wanted)


def _anchored(outputs: Outputs, wanted: Anchored) -> Found:
    boxes, scores = [], []
    for name, stride, anchors in zip(wanted.outputs, wanted.strides, wanted.anchors, strict=True):
        values, count = outputs[name].float(), len(anchors)
        if values.dim() == 4 and values.shape[1] % count == 0:
            _, channels, height, width = values.shape
            values = values.reshape(1, count, channels // count, height, width)
            values = values.permute(0, 1, 3, 4, 2)
        if values.dim() != 5 or values.shape[1] != count or values.shape[4] < 6:
            raise UserError(
                f"detection: output {name} is {list(outputs[name].shape)}, no {count} anchors of"
                " at least 6 numbers per cell"
            )
        values = values.sigmoid()
        grid = _grid(values.shape[2], values.shape[3])
        centre = (values[..., :2] * 2 - 0.5 + grid) * stride
        extent = (values[..., 2:4] * 2) ** 2 * torch.tensor(anchors)[:, None, None]
        boxes.append(_corners(centre, extent).reshape(1, -1, 4))
        classes = values.shape[4] - 5
        scores.append((values[..., 4:5] * values[..., 5:]).reshape(1, -1, classes))
    return torch.cat(boxes, 1), torch.cat(scores, 1)


def _queries(outputs: Outputs, wanted: Query, size: Size) -> Found:
    boxes, logits = outputs[wanted.boxes].float(), outputs[wanted.logits].float()
    if boxes.dim() != 3 or boxes.shape[2] != 4 or logits.shape[:2] != boxes.shape[:2]:
        raise UserError(
            f"detection: outputs {wanted.boxes} {list(boxes.shape)} and {wanted.logits}"
            f" {list(logits.shape)} are not [1, Q, 4] and [1, Q, classes]"
        )
    height, width = size
    scale = torch.tensor([float(width), float(height)])
    corners = _corners(boxes[..., :2] * scale, boxes[..., 2:] * scale)
    softmax = wanted.values == "softmax"
    return corners, logits.softmax(-1)[..., :-1] if softmax else logits.sigmoid()


def _final(outputs: Outputs, wanted: Final) -> Found:
    boxes, scores = outputs[wanted.boxes].float(), outputs[wanted.scores].float()
    labels = outputs[wanted.labels]
    per_box = boxes.dim() == 3 and boxes.shape[:2] == scores.shape == labels.shape
    if not per_box or boxes.shape[2] != 4:
        raise UserError(
            f"detection: outputs {wanted.boxes} {list(boxes.shape)}, {wanted.scores}"
            f" {list(scores.shape)} and {wanted.labels} {list(labels.shape)} are not [1, N, 4],"
            " [1, N] and [1, N]"
        )
    classes = torch.arange(1 + max(max(numbers) for numbers in wanted.classes.values()))
    return boxes, scores[..., None] * (labels[..., None] == classes).float()


def _corners(centre: torch.Tensor, extent: torch.Tensor) -> torch.Tensor:
    return torch.cat((centre - extent / 2, centre + extent / 2), -1)


def _grid(height: int, width: int) -> torch.Tensor:
    """x and y of every cell, [height, width, 2]."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack((x, y), -1).float()
