"""Arguments of miniature networks, of convolutions and of queries."""

from typing import Any

TINY: dict[str, Any] = {
    "stem": 8,
    "widths": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "pyramid": 8,
    "pyramid_depth": 1,
    "mask": 8,
    "drivable": 8,
    "lane": 8,
}
TINY_QUERIES: dict[str, Any] = {
    "backbone": {
        "stem": [8, 8],
        "middle": [8, 8, 8, 8],
        "widths": [16, 24, 32, 40],
        "blocks": [1, 1, 2, 1],
        "depth": 2,
        "light": True,
    },
    "width": 32,
    "fusion": 16,
    "fusion_depth": 2,
    "ffn": 32,
    "layers": 2,
    "queries": 20,
    "mask": 16,
}
