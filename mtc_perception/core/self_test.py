"""The self-test of an engine: what it must say of one frame that every machine makes alike."""

import numpy as np
import numpy.typing as npt

from mtc_perception.core.bundle import SelfTest
from mtc_perception.core.engine import Engine, Outputs
from mtc_perception.core.perception import BOX_MARGIN_PX, check_outputs
from mtc_perception.util.errors import EngineError

# Golden values below this are compared as if they were this large: relative differences of
# next to nothing say nothing.
_SELF_TEST_FLOOR = 0.02


def self_test_frame(height: int, width: int) -> npt.NDArray[np.uint8]:
    """A schematic road, uint8 `[height, width, 3]` RGB.

    Integer arithmetic only, so that every machine makes the identical frame.
    """
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    horizon = 2 * height // 5
    depth = np.maximum(y - horizon, 0)
    half_road = width // 40 + depth * width // (2 * max(height - horizon, 1))
    offset = np.abs(x - width // 2)
    ground = y >= horizon
    grain = (7 * x + 13 * y + x * y // 16) % 24

    red, green, blue = 120 + 80 * y // height, 150 + 60 * y // height, 210 + 30 * y // height
    road = ground & (offset <= half_road)
    dashed = (offset * 40 <= half_road) & (depth // max(height // 16, 1) % 2 == 0)
    edge = (offset * 10 >= half_road * 8) & (offset * 20 <= half_road * 17)
    paint = road & (dashed | edge)
    dx, dy = x - (width // 2 + width // 9), y - 5 * height // 9
    vehicle = (np.abs(dx) * 16 <= width) & (np.abs(dy) * 10 <= height)
    window = vehicle & (dy < 0) & (np.abs(dx) * 20 <= width)
    lights = vehicle & (dy * 30 >= height) & (dy * 20 <= height) & (np.abs(dx) * 24 >= width)

    layers = (
        (ground, (60 + grain, 100 + grain, 50 + grain)),
        (road, (80 + grain, 80 + grain, 84 + grain)),
        (paint, (230 + grain, 230 + grain, 225 + grain)),
        (vehicle, (40 + grain, 44 + grain, 90 + grain)),
        (window, (20 + grain, 24 + grain, 30 + grain)),
        (lights, (220 + grain, 30 + grain, 30 + grain)),
    )
    for region, (r, g, b) in layers:
        red, green, blue = (
            np.where(region, new, old) for new, old in ((r, red), (g, green), (b, blue))
        )
    return np.clip(np.stack([red, green, blue], axis=-1), 0, 255).astype(np.uint8)


def run_self_test(engine: Engine) -> Outputs:
    """The outputs of `engine` for `self_test_frame`."""
    _, height, width, _ = engine.input.shape
    engine.input[0] = self_test_frame(height, width)
    engine.start()
    return engine.wait()


def measure_self_test(outputs: Outputs, tolerance: float = 0.05) -> SelfTest:
    """Golden values of `outputs`, those of a trusted engine for `self_test_frame`."""

    def mean(mask: npt.NDArray[np.uint8] | None) -> float | None:
        return None if mask is None else float(mask.mean()) / 255.0

    return SelfTest(
        drivable_mean=mean(outputs.drivable),
        lane_mean=mean(outputs.lane),
        top_score=float(outputs.scores.max()) if outputs.scores.size else None,
        tolerance=tolerance,
    )


def check_well_formed(outputs: Outputs, class_count: int, size: tuple[int, int]) -> None:
    """Raise EngineError unless `outputs` could be those of some network for a frame.

    `size` is the network's, height and width.
    """
    try:
        check_outputs(outputs, class_count, size)
    except EngineError as error:
        raise EngineError(f"self-test: {error}") from error
    _check_boxes(outputs, size)


def check_self_test(
    outputs: Outputs, golden: SelfTest, class_count: int, size: tuple[int, int]
) -> None:
    """Raise EngineError unless `outputs` are well-formed and agree with `golden`, which is of the
    same tasks. `size` is the network's, height and width."""
    check_well_formed(outputs, class_count, size)
    measured = measure_self_test(outputs)
    for quantity in ("drivable_mean", "lane_mean", "top_score"):
        got, expected = getattr(measured, quantity), getattr(golden, quantity)
        if expected is None:
            continue
        if abs(got - expected) > golden.tolerance * max(expected, _SELF_TEST_FLOOR):
            raise EngineError(
                f"self-test: {quantity} is {got:.4f}, the bundle's own is {expected:.4f}"
                f" (tolerance {golden.tolerance:.0%})"
            )


def _check_boxes(outputs: Outputs, size: tuple[int, int]) -> None:
    """Raise EngineError unless every scored box is inside the input."""
    height, width = size
    x1, y1, x2, y2 = outputs.boxes[outputs.scores > 0.0].T
    if (
        min(x1.min(initial=0.0), y1.min(initial=0.0)) < -BOX_MARGIN_PX
        or x2.max(initial=0.0) > width + BOX_MARGIN_PX
        or y2.max(initial=0.0) > height + BOX_MARGIN_PX
    ):
        raise EngineError(f"self-test: boxes are not all within the {width}x{height} input")
