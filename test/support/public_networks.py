"""Stand-ins for public networks: their inputs and outputs, with small random insides, as ONNX."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn


def spread(values: torch.Tensor) -> torch.Tensor:
    """Values of every size, whatever the scale of the input."""
    around = values - values.mean()
    return 2 * around / around.abs().mean()


class TwoMasks(nn.Module):
    """As TwinLiteNet+: logits of background and foreground for two masks."""

    names = ("da", "ll")

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, 2, 1)
        self.heads = nn.ModuleList(nn.ConvTranspose2d(8, 2, 2, 2) for _ in range(2))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        body = self.body(image).relu()
        return tuple(spread(head(body)) for head in self.heads)


class HalfMasks(TwoMasks):
    """The same with float16 in and out."""

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(mask.half() for mask in super().forward(image.float()))


class Grids(nn.Module):
    """As YOLOX: undecoded rows of three strides; objectness and classes are probabilities."""

    names: tuple[str, ...] = ("output",)

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(nn.Conv2d(3, 8, stride, stride) for stride in (8, 16, 32))
        self.heads = nn.ModuleList(nn.Conv2d(8, 5 + classes, 1) for _ in range(3))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows = []
        for body, head in zip(self.bodies, self.heads, strict=True):
            values = spread(head(body(image).relu()))
            values = torch.cat((values[:, :4] / 2, values[:, 4:].sigmoid()), 1)
            rows.append(values.flatten(2))
        return (torch.cat(rows, 2).transpose(1, 2),)


class Yolop(nn.Module):
    """As YOLOP: three strides of three anchors, decoded inside, and two masks whose two channels
    are a probability each; outputs of its parts beside them."""

    names = ("det_out", "drive_area_seg", "lane_line_seg", "p3")
    anchors = (
        ((3, 9), (5, 11), (4, 20)),
        ((7, 18), (6, 39), (12, 31)),
        ((19, 50), (38, 81), (68, 157)),
    )
    strides = (8, 16, 32)

    def __init__(self, decode: bool = True) -> None:
        super().__init__()
        self.decode = decode
        self.bodies = nn.ModuleList(nn.Conv2d(3, 4, stride, stride) for stride in self.strides)
        self.heads = nn.ModuleList(nn.Conv2d(4, 18, 1) for _ in self.strides)
        self.masks = nn.ModuleList(nn.ConvTranspose2d(4, 2, 8, 8) for _ in range(2))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = [body(image).relu() for body in self.bodies]
        maps = [spread(head(one)) for head, one in zip(self.heads, features, strict=True)]
        masks = [spread(mask(features[0])).sigmoid() for mask in self.masks]
        if not self.decode:
            return (*maps, *masks)
        rows = []
        for values, anchors, stride in zip(maps, self.anchors, self.strides, strict=True):
            _, _, height, width = values.shape
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            grid = torch.stack((x, y), -1)
            values = values.view(1, 3, 6, height, width).permute(0, 1, 3, 4, 2).sigmoid()
            centre = (values[..., :2] * 2 - 0.5 + grid) * stride
            extent = (values[..., 2:4] * 2) ** 2 * torch.tensor(anchors).view(3, 1, 1, 2)
            rows.append(torch.cat((centre, extent, values[..., 4:]), -1).view(1, -1, 6))
        return (torch.cat(rows, 1), *masks, features[0])


class Queries(nn.Module):
    """As DETR: 20 boxes as fractions and their logits, the last class being `nothing`."""

    names = ("boxes", "logits")

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 20, 16, 16)
        self.boxes, self.logits = nn.LazyLinear(4), nn.LazyLinear(classes + 1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        queries = self.body(image).flatten(2)
        return spread(self.boxes(queries)).sigmoid(), spread(self.logits(queries))


def write_onnx(
    model: nn.Module,
    path: Path,
    height: int,
    width: int,
    *,
    names: Sequence[str] = (),
    opset: int = 12,
    free: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Export a stand-in with reproducible weights; `free` leaves batch and sizes open, `dtype` is
    that of its input."""
    torch.manual_seed(1)
    image = torch.rand(1, 3, height, width, dtype=dtype)
    with torch.no_grad():
        model(image)  # lazy layers learn their sizes
        for weights in model.parameters():
            weights.copy_(torch.randn(weights.shape) / max(weights[0].numel(), 1) ** 0.5)
    axes = {"images": {0: "batch", 2: "height", 3: "width"}} if free else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            (image,),
            str(path),
            input_names=["images"],
            output_names=list(names or model.names),  # type: ignore[arg-type]
            opset_version=opset,
            dynamic_axes=axes,
            dynamo=False,
        )
    return path
