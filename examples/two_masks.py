"""A training and figures as owners of networks have them: of drivable area and lanes, on the public
data sets of docs/data.md. Nothing of it knows which network it is."""

import random

import torch
import torch.nn.functional as F

from mtc_perception.util.progress import Progress
from offline_compress.api import InputPx, LabelledBatches, read_split

SIZE, UNKNOWN = InputPx(height=320, width=416), 255
CROP = 160
BF16 = torch.cuda.is_available() or torch.cpu.get_capabilities().get("avx512_bf16", False)


def read(roots):
    """Batches to train with, and by data set those to validate with; a set without a split `val`
    lends the last tenth of `train`."""
    train, val = [], {}
    for root in roots:
        own = read_split(root, "train")
        lent = [] if (root / "images" / "val").exists() else own[-max(1, len(own) // 10) :]
        train += own[: len(own) - len(lent)]
        val[root.name] = LabelledBatches(lent or read_split(root, "val"), SIZE, 4)
    random.Random(0).shuffle(train)
    return LabelledBatches(train, SIZE, 8), val


def tensors(batch, device="cpu"):
    """Images [N, 3, H, W], and masks [2, N, H, W]."""
    batch = batch.to(device)
    masks = torch.stack((batch.targets.drivable, batch.targets.lane))
    return batch.images.float() / 255, masks.long()


def loss(logits, aim):
    """Cross entropy, and what is lacking of IoU; None if nothing is labelled."""
    logits = logits.float()
    known, likely = aim != UNKNOWN, logits.softmax(1)[:, 1]
    if not known.any():
        return None
    both = (likely * (aim == 1)).sum()
    either = likely[known].sum() + (aim == 1).sum() - both
    entropy = F.cross_entropy(logits, aim, ignore_index=UNKNOWN)
    return entropy + 1 - both / either.clamp(min=1)


def train(network, teacher, batches, epochs, title):
    """On a part of each image, which takes less time; what the teacher says needs no labels."""
    random.seed(0)
    torch.manual_seed(0)
    device = next(network.parameters()).device
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    order = [number for _ in range(epochs) for number in torch.randperm(len(batches))]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, len(order))
    with Progress() as progress:
        for number in progress.track(order, title):
            left = random.randrange(0, SIZE.width - CROP + 1, 8)
            images, masks = (
                part[..., left : left + CROP] for part in tensors(batches[number], device)
            )
            with torch.autocast(device.type, torch.bfloat16, enabled=BF16):
                outputs, lesson = network(images), teacher.loss(images)
            losses = [*map(loss, outputs, masks), lesson]
            sum(one for one in losses if one is not None).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()


@torch.no_grad()
def evaluate(network, sets):
    """Figures in percent, over all pixels of a set."""
    figures, device = {}, next(network.parameters()).device
    for name, batches in sets.items():
        counts = torch.zeros(2, 4, device=device)  # of each mask: pixels by aim and answer
        for images, masks in (tensors(batch, device) for batch in batches):
            for count, logits, aim in zip(counts, network(images), masks, strict=True):
                pairs = (2 * aim + logits.argmax(1))[aim != UNKNOWN]
                count += torch.bincount(pairs, minlength=4)
        right = counts[:, [0, 3]]
        iou = 100 * right / (counts.sum(1, keepdim=True) - right.flip(1))
        figures[f"{name} drivable mIoU"] = float(iou[0].mean())
        figures[f"{name} lane IoU"] = float(iou[1, 1])
    return figures
