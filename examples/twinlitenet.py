"""TwinLiteNet with its public weights on other roads: adapted, pruned to half its time, a bundle.

git clone https://github.com/chequanghuy/TwinLiteNet  # followed and cut at commit 5241418
python examples/twinlitenet.py TwinLiteNet runs/twinlitenet data/camvid data/rtk
"""

import json
import sys
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from two_masks import SIZE, evaluate, loss, read, train

import offline_compress.api as mtc

checkout, out, *roots = map(Path, sys.argv[1:])
sys.path.insert(0, str(checkout))
from model.TwinLite import TwinLiteNet  # noqa: E402

batches, sets = read(roots)
image = torch.zeros(1, 3, SIZE.height, SIZE.width)
description = mtc.Description(
    example=(image,),
    tasks={
        "drivable": lambda outputs, batch: loss(outputs[0], batch.targets.drivable.long()),
        "lane": lambda outputs, batch: loss(outputs[1], batch.targets.lane.long()),
    },
    inputs=lambda batch: (batch.images.float() / 255,),
    taps={"encoder": "encoder.classifier"},
)


def recover(network, teacher, step, epochs=6):
    train(network, teacher, batches, epochs, f"recovery {step.number}")


torch.set_flush_denormal(True)  # processors are slow with the least of its weights
public = TwinLiteNet()
weights = torch.load(checkout / "pretrained" / "best.pth", map_location="cpu")
public.load_state_dict({name.removeprefix("module."): w for name, w in weights.items()})
judge = partial(evaluate, sets=sets)
# The network learns these roads first, or pruning would be compared with another task.
adapted = mtc.control(public, description, 1, partial(recover, epochs=3), out / "adapted")
half = mtc.Budget(latency=0.5)
rules = mtc.PruningRules(budget=half, steps=1, least_channels=4, round_to=4, largest_rise=None)
scored = list(islice(batches, 8))
pruned = mtc.compress(adapted, description, scored, rules, recover, judge, out / "pruned").model
control = mtc.control(adapted, description, rules.steps, recover, out / "control")

networks = {"public": public.eval(), "adapted": adapted, "control": control, "pruned": pruned}
figures = {name: judge(network) for name, network in networks.items()}
for name, own in figures.items():
    print(f"{name:8}", *(f"{title} {value:.1f}  " for title, value in own.items()))
(out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
road, lane = mtc.Mask(output="output.0"), mtc.Mask(output="output.1")
described = mtc.NetworkMap(input={"std": (255,) * 3}, drivable=road, lane=lane)
for name, network in (("whole", control), ("small", pruned)):
    mtc.wrap_module(network, image, described, out / f"{name}.mtc", name)
