"""HybridNets with random weights: which channels may go, half of its work cut, and a bundle.

git clone https://github.com/datvuthanh/HybridNets  # followed and cut at commit 8735a69
pip install -r HybridNets/requirements.txt timm==0.6.13  # it does not import with timm 1
python examples/hybridnets.py HybridNets runs/hybridnets
mtc-replay predict photo.jpg --bundle runs/hybridnets/small.mtc
"""

import sys
from pathlib import Path

import torch
from halving import finish, halved
from torch import nn

from offline_compress.api import Boxes, Description, Mask, NetworkInput, NetworkMap

checkout, out = map(Path, sys.argv[1:])
sys.path[0] = str(checkout)  # in the place of this folder, where a file has its name
import backbone  # noqa: E402

given = backbone.get_encoder  # without the download of its ImageNet weights
backbone.get_encoder = lambda *names, **own: given(*names, **own | {"weights": None})


class Decoded(nn.Sequential):
    """HybridNets' own head: offsets from anchors y1, x1, y2, x2 -> rows x1, y1, x2, y2, score."""

    def forward(self, image):
        offsets, scores, masks = self[0](image)
        anchors = self[0].anchors(image)
        first, last = anchors[..., :2], anchors[..., 2:]
        middle = (first + last) / 2 + offsets[..., :2] * (last - first)
        extent = offsets[..., 2:].exp() * (last - first)
        corners = torch.cat((middle - extent / 2, middle + extent / 2), -1)
        return {"rows": torch.cat((corners[..., [1, 0, 3, 2]], scores), -1), "masks": masks}


image = torch.zeros(1, 3, 384, 640)
description = Description(
    example=(image,),
    tasks={  # in the place of its own losses, which need its labels
        "boxes": lambda outputs, batch: outputs[0].square().mean() + outputs[1].mean(),
        "masks": lambda outputs, batch: nn.functional.cross_entropy(outputs[2], batch[1]),
    },
    opaque=("encoder._conv_head", "encoder._bn1"),  # of its encoder's classifier: they do not run
)
torch.manual_seed(0)
network = backbone.HybridNetsBackbone(1, compound_coef=3, seg_classes=2, onnx_export=True).eval()
network.anchors.onnx_export = False  # which would write a file at each pass
batches = [(torch.rand(2, 3, 384, 640), torch.randint(3, (2, 384, 640))) for _ in range(2)]
small, figures = halved(network, description, batches)
rows = {"decoder": "boxes", "output": "rows", "form": "corners", "objectness": False}
described = NetworkMap(
    input=NetworkInput(mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4)),
    detection=Boxes(**rows, classes={"car": (0,)}),
    drivable=Mask(output="masks", channels=(1,)),
    lane=Mask(output="masks", channels=(2,)),
)
finish(out, Decoded(network), Decoded(small), image, described, figures)
