"""TwinLiteNet with its public weights, pruned to half of its time on OpenVINO, for the node.

git clone https://github.com/chequanghuy/TwinLiteNet  # followed and cut at commit 5241418
python examples/twinlitenet.py TwinLiteNet data/camvid runs/twinlitenet
mtc-compress wrap runs/twinlitenet/small.onnx small.mtc --map config/maps/twinlitenet_plus.yaml
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from offline_compress.api import Budget, Description, PruningRules, compress
from offline_compress.data.labelled import source_samples
from offline_compress.importance.calibration import CalibrationBatches
from offline_compress.recipe.parts import DataSource, InputPx

checkout, data, out = map(Path, sys.argv[1:4])
epochs, images = map(int, sys.argv[4:] or (5, 10_000))  # after each step; of each split, at most
sys.path.insert(0, str(checkout))
from model.TwinLite import TwinLiteNet  # noqa: E402

MASKS, SIZE, UNKNOWN = ("drivable", "lane"), InputPx(height=384, width=640), 255
train, val = (
    CalibrationBatches(source_samples(DataSource(root=data, split=split))[:images], SIZE, 8)
    for split in ("train", "val")
)


def loss(number, outputs, batch):  # outputs: logits [N, 2, H, W] of each mask
    aim = getattr(batch.targets, MASKS[number]).long()
    return F.cross_entropy(outputs[number], aim, ignore_index=UNKNOWN)


def recover(network, teacher, step):
    optimizer = torch.optim.AdamW(network.parameters(), 5e-4)
    for batch in (batch for _ in range(epochs) for batch in train):
        inputs = description.inputs(batch)
        outputs = network(*inputs)
        (loss(0, outputs, batch) + loss(1, outputs, batch) + teacher.loss(*inputs)).backward()
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def evaluate(network):
    counts = torch.zeros(2, 2)  # intersection and union, of each mask
    for batch in val:
        for number, outputs in enumerate(network(*description.inputs(batch))):
            aim, found = getattr(batch.targets, MASKS[number]), outputs.argmax(1) == 1
            both, either = found & (aim == 1), (found & (aim != UNKNOWN)) | (aim == 1)
            counts[number] += torch.stack((both.sum(), either.sum()))
    return {f"{mask} IoU": 100 * float(a / b) for mask, (a, b) in zip(MASKS, counts, strict=True)}


description = Description(
    example=(torch.zeros(1, 3, SIZE.height, SIZE.width),),
    tasks={mask: lambda o, b, n=number: loss(n, o, b) for number, mask in enumerate(MASKS)},
    inputs=lambda batch: (batch.images.float() / 255,),
    taps={"encoder": "encoder.classifier"},
)
network = TwinLiteNet()
weights = torch.load(checkout / "pretrained" / "best.pth", map_location="cpu")
network.load_state_dict({name.removeprefix("module."): w for name, w in weights.items()})
rules = PruningRules(budget=Budget(latency=0.5), steps=3, least_channels=4, round_to=4)
result = compress(network, description, train, rules, recover, evaluate, out)
print(result.plan.steps[0].before, "->", result.plan.steps[-1].after)
names = {"input_names": ["image"], "output_names": ["da", "ll"]}
torch.onnx.export(result.model, description.example, out / "small.onnx", dynamo=False, **names)
