"""YOLOP with random weights: which channels may go, half of its work cut, and a bundle.

git clone https://github.com/hustvl/YOLOP  # followed and cut at commit 8d8f68d
pip install yacs prefetch_generator torchvision
python examples/yolop.py YOLOP runs/yolop
mtc-replay predict photo.jpg --bundle runs/yolop/small.mtc
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from halving import finish, halved

from offline_compress.api import Boxes, Description, Mask, NetworkInput, NetworkMap

checkout, out = map(Path, sys.argv[1:])
sys.path.insert(0, str(checkout))
from lib.config import cfg  # noqa: E402
from lib.models import get_net  # noqa: E402


def objectness(outputs, batch):
    """In the place of YOLOP's own loss of boxes, which needs its labels."""
    return sum(level[..., 4].sigmoid().mean() for level in outputs[0])


def mask(number):
    """Of YOLOP's answers 1, drivable, and 2, lane: probabilities [N, 2, H, W]."""
    return lambda outputs, batch: F.binary_cross_entropy(outputs[number], batch[number])


def answers(outputs):
    """Boxes, decoded or as one tensor per stride, then the masks."""
    boxes, drivable, lane = outputs
    raw = boxes if isinstance(boxes, list) else boxes[1]
    return [*raw, drivable, lane]


image = torch.zeros(1, 3, 384, 640)
description = Description(
    example=(image,),
    tasks={"detection": objectness, "drivable": mask(1), "lane": mask(2)},
    answers=answers,
)
torch.manual_seed(0)
network = get_net(cfg).eval()
batches = [(torch.rand(2, 3, 384, 640), *torch.rand(2, 2, 2, 384, 640).round()) for _ in range(2)]
small, figures = halved(network, description, batches)
described = NetworkMap(
    input=NetworkInput(mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4)),
    detection=Boxes(decoder="boxes", output="output.0.0", classes={"vehicle": (0,)}, iou=0.45),
    drivable=Mask(output="output.1", values="share"),
    lane=Mask(output="output.2", values="share"),
)
finish(out, network, small, image, described, figures)
