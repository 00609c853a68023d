import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtc_perception.core.bundle import InputSpec, Limits, Thresholds
from mtc_perception.core.engine import EngineChoice, Outputs
from mtc_perception.core.images import SourceImage
from mtc_perception.core.letterbox import PAD_VALUE, Letterbox
from mtc_perception.core.perception import Perception, decode_boxes, decode_mask
from mtc_perception.core.self_test import self_test_frame
from mtc_perception.runtime.perceiver import Perceiver, Selection, open_perceiver
from mtc_perception.util.errors import BundleError
from support.checkout import SHIPPED
from support.toy_bundle import MAX_DETECTIONS, write_toy_bundle

NET_HEIGHT, NET_WIDTH = 96, 160


@pytest.fixture(scope="module", params=["openvino", "onnxruntime"])
def perceiver(request: pytest.FixtureRequest, toy_bundle: Path) -> Perceiver:
    return open_perceiver(Selection(toy_bundle, request.param))


def plain(height: int, width: int, color: tuple[int, int, int]) -> SourceImage:
    return SourceImage(np.full((height, width, 3), color, np.uint8), "rgb")


def assert_same(one: Perception, other: Perception) -> None:
    for field in ("boxes", "scores", "labels", "drivable", "lane"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


@pytest.mark.parametrize(
    ("height", "width"), [(720, 1280), (96, 160), (480, 640), (1280, 720), (33, 101), (1, 1)]
)
def test_answers_are_in_source_pixels(perceiver: Perceiver, height: int, width: int) -> None:
    color = (240, 20, 160)
    found = perceiver.perceive(plain(height, width, color))

    box = Letterbox.fit(height, width, NET_HEIGHT, NET_WIDTH)
    covered = box.height * box.width / (NET_HEIGHT * NET_WIDTH)
    mean = (covered * np.mean(color) + (1 - covered) * PAD_VALUE) / 255
    scores = [mean / (k + 1) for k in range(MAX_DETECTIONS) if mean / (k + 1) >= 0.2]
    right = [(NET_WIDTH * score - box.left) / box.scale_x for score in scores]
    bottom = [(NET_HEIGHT * score - box.top) / box.scale_y for score in scores]
    expected = np.clip([[0, 0, r, b] for r, b in zip(right, bottom, strict=True)], 0, None)
    expected = np.minimum(expected, [width, height, width, height])
    keep = (expected[:, 2] > 0) & (expected[:, 3] > 0)
    assert keep.any()
    np.testing.assert_allclose(found.boxes, expected[keep], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found.scores, np.array(scores)[keep], rtol=1e-5)
    np.testing.assert_array_equal(found.labels, (np.arange(len(scores)) % 2)[keep])
    assert found.drivable.shape == found.lane.shape == (height, width)
    assert found.drivable.min() == 255  # red 240 of 255
    assert found.lane.max() == 0  # green 20 of 255
    for field, dtype in (("boxes", "float32"), ("scores", "float32"), ("labels", "int32")):
        assert getattr(found, field).dtype == dtype


def test_masks_lie_where_the_image_says(perceiver: Perceiver) -> None:
    pixels = np.zeros((720, 1280, 3), np.uint8)
    pixels[400:, :, 0] = 255  # drivable below
    pixels[:, 640:, 1] = 255  # lane to the right
    found = perceiver.perceive(SourceImage(pixels, "rgb"))
    edge = int(found.drivable[:, 5].argmax()), int(found.lane[5].argmax())
    assert abs(edge[0] - 400) <= 4  # half a network pixel of 8
    assert abs(edge[1] - 640) <= 4
    assert found.drivable[edge[0] :].min() == 255
    assert found.drivable[: edge[0]].max() == 0
    assert found.lane[:, edge[1] :].min() == 255
    assert found.lane[:, : edge[1]].max() == 0


def test_a_stretched_image_fills_the_input_and_its_answer_the_image(tmp_path: Path) -> None:
    stretched = InputSpec(height=NET_HEIGHT, width=NET_WIDTH, fit="stretch")
    bundle = write_toy_bundle(tmp_path / "toy.mtc", input=stretched)
    pixels = np.zeros((100, 100, 3), np.uint8)  # a letterbox would have bars to its sides
    pixels[60:, :, 0] = 255  # drivable below
    pixels[:, 30:, 1] = 255  # lane to the right
    with open_perceiver(Selection(bundle, "onnxruntime", threads=1)) as perceiver:
        found = perceiver.perceive(SourceImage(pixels, "rgb"))
        assert (perceiver.engine.input[0, -1, :, 0] == 255).all()
    # The toy's boxes are the same part of the input's height and width.
    x1, y1, x2, y2 = found.boxes[0]
    assert (x1, y1) == (0, 0)
    assert x2 == pytest.approx(y2, abs=0.01)
    assert abs(int(found.drivable[:, 5].argmax()) - 60) <= 1
    assert abs(int(found.lane[5].argmax()) - 30) <= 1


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sizes=st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=2, max_size=5))
def test_what_came_before_does_not_matter(
    perceiver: Perceiver, toy_bundle: Path, sizes: list[tuple[int, int]]
) -> None:
    images = [plain(h, w, (10 * i, 255 - 10 * i, 99)) for i, (h, w) in enumerate(sizes)]
    for image in images:
        last = perceiver.perceive(image)
    fresh = Perceiver(perceiver.bundle, perceiver.engine)
    assert_same(last, fresh.perceive(images[-1]))


@pytest.mark.parametrize("size", [(96, 160), (720, 1280)])
def test_results_belong_to_the_receiver(perceiver: Perceiver, size: tuple[int, int]) -> None:
    image = plain(*size, (200, 200, 200))
    kept = perceiver.perceive(image)
    copy = Perception(
        size=kept.size,
        **{
            field: getattr(kept, field).copy()
            for field in ("boxes", "scores", "labels", "drivable", "lane")
        },
        times=kept.times,
    )
    perceiver.perceive(plain(*size, (60, 60, 60)))
    assert_same(kept, copy)
    perceiver.engine.input[:] = 0
    assert not np.shares_memory(kept.drivable, image.pixels)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 0.999, 1.0])
def test_a_value_equal_to_the_threshold_counts(threshold: float) -> None:
    values = np.arange(256, dtype=np.uint8)[None]
    mask = decode_mask(values, Letterbox.fit(1, 256, 1, 256), threshold)
    expected = [255 if value / 255 >= threshold else 0 for value in range(256)]
    np.testing.assert_array_equal(mask[0], expected)


def outputs_with(boxes: list[list[float]], scores: list[float]) -> Outputs:
    mask: npt.NDArray[np.uint8] = np.zeros((1, NET_HEIGHT, NET_WIDTH), np.uint8)
    return Outputs(
        boxes=np.array([boxes], np.float32),
        scores=np.array([scores], np.float32),
        labels=np.zeros((1, len(scores)), np.int64),
        drivable=mask,
        lane=mask,
    )


def test_boxes_in_the_padding_are_dropped_and_others_clipped() -> None:
    box = Letterbox.fit(100, 100, NET_HEIGHT, NET_WIDTH)  # covers columns 32 to 128
    outputs = outputs_with(
        [[0, 0, 30, 50], [0, 10, 80, 50], [100, 10, 100, 50], [90, 10, 80, 50], [0, 0, 160, 96]],
        [0.9, 0.8, 0.7, 0.6, 0.5],
    )
    boxes, scores, _ = decode_boxes(outputs, box, threshold=0.5, max_detections=5)
    expected = np.array([[0, 10, 48, 50], [0, 0, 96, 96]]) * 100 / 96
    np.testing.assert_allclose(boxes, expected, rtol=1e-5)
    np.testing.assert_array_equal(scores, np.array([0.8, 0.5], np.float32))


def test_a_score_that_is_no_number_does_not_shift_the_others() -> None:
    outputs = outputs_with([[0, 0, 8, 8], [0, 0, 9, 9], [0, 0, 7, 7]], [math.nan, 0.9, 0.8])
    letterbox = Letterbox.fit(96, 160, NET_HEIGHT, NET_WIDTH)
    boxes, scores, _ = decode_boxes(outputs, letterbox, threshold=0.5, max_detections=3)
    np.testing.assert_array_equal(boxes, [[0, 0, 9, 9], [0, 0, 7, 7]])
    np.testing.assert_array_equal(scores, np.array([0.9, 0.8], np.float32))


def test_numbers_that_are_none_give_no_boxes() -> None:
    nan = math.nan
    outputs = outputs_with([[0, 0, nan, 9], [nan] * 4, [0, 0, 9, 9]], [0.9, 0.8, nan])
    boxes, scores, labels = decode_boxes(
        outputs, Letterbox.fit(96, 160, NET_HEIGHT, NET_WIDTH), 0.1, 3
    )
    assert len(boxes) == len(scores) == len(labels) == 0


def test_limits_are_those_of_the_call_else_of_the_bundle(toy_bundle: Path) -> None:
    image = plain(96, 160, (128, 128, 128))
    with open_perceiver(Selection(toy_bundle)) as perceiver:
        assert len(perceiver.perceive(image).boxes) == 2  # 0.5, 0.25
        low = Thresholds(score=0.1, drivable=0.51, lane=0.5)
        found = perceiver.perceive(image, Limits(low, MAX_DETECTIONS))
        assert len(found.boxes) == MAX_DETECTIONS
        assert found.drivable.max() == 0
        assert found.lane.min() == 255
        assert len(perceiver.perceive(image, Limits(low, 3)).boxes) == 3
        assert len(perceiver.perceive(image).boxes) == 2


def test_opening_explains_and_refuses(toy_bundle: Path, tmp_path: Path) -> None:
    with open_perceiver(Selection(toy_bundle)) as perceiver:
        assert "openvino" in perceiver.why
        assert perceiver.bundle.manifest.limits.max_detections == MAX_DETECTIONS
    with pytest.raises(BundleError, match="no such bundle"):
        open_perceiver(Selection(tmp_path / "absent.mtc"))


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_the_shipped_bundle_perceives(engine: EngineChoice) -> None:
    with open_perceiver(Selection(SHIPPED, engine)) as perceiver:
        limits = Limits(Thresholds(score=0.05, drivable=0.5, lane=0.5), 100)
        image = SourceImage(self_test_frame(721, 1279), "rgb")
        found, again = perceiver.perceive(image, limits), perceiver.perceive(image, limits)
    assert_same(found, again)
    assert found.drivable.shape == found.lane.shape == (721, 1279)
    assert set(np.unique(found.drivable)) <= {0, 255}
    assert (np.diff(found.scores) <= 0).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [1279, 721, 1279, 721]).all()
    assert found.times.inference_ms > 0
    assert found.times.preprocess_ms > 0
    assert found.times.decode_ms > 0
