"""`python -m bench.overview`: what each shipped bundle finds on rendered roads, in one picture."""

import sys
from pathlib import Path

import cv2
import numpy as np

from bench.shipped import TEACHERS
from mtc_perception.core.images import SourceImage
from mtc_perception.core.overlay import draw_overlay
from mtc_perception.runtime.perceiver import Selection, open_perceiver
from offline_compress.roads.render import Drive

SEEDS, FRAME = (7, 8, 9, 10), 120
"""Of drives that no network has learnt from: none was chosen for what is found."""
PICTURES = "docs/pictures/answers_{}.jpg"


def main() -> int:
    """Perceive one image of each drive and write them with what was found drawn in."""
    for name in TEACHERS:
        drawn = []
        with open_perceiver(Selection(Path("models", f"{name}.mtc"))) as perceiver:
            for seed in SEEDS:
                image = Drive(seed, 1280, 720, 30.0).frame(FRAME).image
                perception = perceiver.perceive(SourceImage(image, "rgb"))
                picture = draw_overlay(image, perception, perceiver.bundle.manifest.classes)
                drawn.append(cv2.resize(picture, (640, 360), interpolation=cv2.INTER_AREA))
        rows = [np.hstack(drawn[:2]), np.hstack(drawn[2:])]
        picture = cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR)
        path = PICTURES.format(name)
        cv2.imwrite(path, picture, [cv2.IMWRITE_JPEG_QUALITY, 85])
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
