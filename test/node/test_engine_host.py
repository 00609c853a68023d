"""Several engines in one process, as while one is loaded beside the other."""

import threading
from pathlib import Path

import numpy as np
import pytest

from mtc_perception.core.images import SourceImage
from mtc_perception.core.perception import Perception
from mtc_perception.runtime.perceiver import Perceiver, Selection, open_perceiver
from mtc_perception.util.errors import EngineError
from support.toy_bundle import write_toy_bundle

RUNS = 50
FIRST = (200, 30, 70)
"""The colour of one engine's images; the other's has red and green swapped."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two networks of different sizes, whose masks are the red and the green of the image."""
    folder = tmp_path_factory.mktemp("two")
    return [
        write_toy_bundle(folder / "one.mtc", height=96, width=160),
        write_toy_bundle(folder / "two.mtc", height=64, width=128, name="two"),
    ]


def perceive(perceiver: Perceiver, red: int, green: int, blue: int) -> Perception:
    spec = perceiver.bundle.manifest.input
    image = SourceImage(np.full((spec.height, spec.width, 3), (red, green, blue), np.uint8), "rgb")
    return perceiver.perceive(image)


def is_right(found: Perception, red: int, green: int, blue: int) -> bool:
    mean = (red + green + blue) / 3 / 255
    return (
        bool((found.drivable > 0).all()) == (red > 127)
        and bool((found.lane > 0).all()) == (green > 127)
        and found.scores[0] == pytest.approx(mean, abs=0.01)
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("openvino", "openvino"),
        ("onnxruntime", "onnxruntime"),
        ("openvino", "onnxruntime"),
    ],
)
def test_two_engines_at_once_do_not_disturb_each_other(
    bundles: list[Path], one: str, other: str
) -> None:
    perceivers = [
        open_perceiver(Selection(bundle, name, threads=1))  # type: ignore[arg-type]
        for bundle, name in zip(bundles, (one, other), strict=True)
    ]
    colours = [FIRST, (FIRST[1], FIRST[0], FIRST[2])]
    begin = threading.Barrier(2)
    right = [0, 0]

    def work(index: int) -> None:
        begin.wait(20)
        for _ in range(RUNS):
            right[index] += is_right(perceive(perceivers[index], *colours[index]), *colours[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert right == [RUNS, RUNS]

    # The end of one is not felt by the other.
    perceivers[0].close()
    with pytest.raises(EngineError, match=r"closed|nothing was started"):
        perceive(perceivers[0], *colours[0])
    assert is_right(perceive(perceivers[1], *colours[1]), *colours[1])
    perceivers[1].close()
