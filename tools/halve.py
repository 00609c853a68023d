"""Write a checkpoint with its weights in half precision, to be kept in the repository.

    python tools/halve.py runs/mtc_m/best models/checkpoints/mtc_m

It loads as any checkpoint does. Norms and biases keep their precision: they take no space.
"""

import sys
from pathlib import Path

from offline_compress.models.registry import load_checkpoint, load_spec, save_checkpoint


def main(source: Path, target: Path) -> None:
    """Halve `source` into `target`."""
    model = load_checkpoint(source)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.half()
    save_checkpoint(target, load_spec(source), model)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
