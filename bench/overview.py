"""`python -m bench.overview`: draw docs/overview.jpg anew with the shipped network."""

import sys

import cv2

from mtc_perception.core.images import SourceImage
from mtc_perception.core.overlay import draw_overlay
from mtc_perception.node.parameters import default_bundle
from mtc_perception.runtime.perceiver import Selection, open_perceiver
from offline_compress.roads.render import Drive

SEED, FRAME = 7, 120
PICTURE = "docs/overview.jpg"


def main() -> int:
    """Perceive one rendered image and write it with what was found drawn in."""
    image = Drive(SEED, 1280, 720, 30.0).frame(FRAME).image
    with open_perceiver(Selection(default_bundle())) as perceiver:
        perception = perceiver.perceive(SourceImage(image, "rgb"))
        picture = draw_overlay(image, perception, perceiver.bundle.manifest.classes)
    small = cv2.resize(picture, (960, 540), interpolation=cv2.INTER_AREA)
    cv2.imwrite(PICTURE, cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    print(f"wrote {PICTURE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
