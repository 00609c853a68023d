"""Synthetic roads: the same seed gives the same picture, and the labels are exact."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from mtc_perception.datasets.layout import read_image, read_mask, read_split
from mtc_perception.util.errors import UserError
from offline_compress.commands.synth import synth_app
from offline_compress.recipe.parts import DataSource, SyntheticRoads
from offline_compress.roads import road_dataset as synth_dataset
from offline_compress.roads.canvas import OTHER
from offline_compress.roads.geometry import PinholeCamera, RoadShape, RoadView, clip_near
from offline_compress.roads.ground import Shadows, render_ground
from offline_compress.roads.look import draw_look
from offline_compress.roads.meshes import KINDS, vehicle_mesh
from offline_compress.roads.random_world import build_world
from offline_compress.roads.render import MIN_BOX_PX, Drive, Scene, render_scene
from offline_compress.roads.road_dataset import render_missing, write_dataset
from offline_compress.roads.vehicles import Paintwork, draw_vehicle
from offline_compress.roads.world import STYLES

SIZES = [(640, 384), (321, 203), (240, 426), (64, 32), (960, 540)]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    inter = np.prod(np.maximum(high - low, 0))
    return float(inter / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inter))


def fits(box: np.ndarray, mask: np.ndarray) -> bool:
    """Whether a box holds (but for slivers) all of a vehicle and every side of it touches it."""
    x1, y1, x2, y2 = box
    inside = mask[y1:y2, x1:x2]
    return inside.sum() >= 0.75 * mask.sum() and all(
        edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1])
    )


def check_labels(scene: Scene, width: int, height: int) -> None:
    assert scene.image.shape == (height, width, 3)
    for array in (scene.image, scene.drivable, scene.lane, scene.ids):
        assert array.dtype == np.uint8
        assert array.shape[:2] == (height, width)
    assert set(np.unique(scene.drivable)) <= {0, 255}
    assert not np.any((scene.lane > 0) & (scene.drivable == 0)), "paint is drivable too"
    assert not np.any((scene.drivable > 0) & (scene.ids != 0)), "what is hidden is not drivable"
    codes = [code for code in np.unique(scene.ids) if code not in (0, OTHER)]
    boxes = np.concatenate([scene.boxes, scene.ignore_boxes]).astype(int)
    assert len(boxes) == len(codes)
    for code in codes:
        assert any(fits(box, scene.ids == code) for box in boxes), "boxes are tight"
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= (width, height)).all()
    sides = scene.boxes[:, 2:] - scene.boxes[:, :2]
    assert (sides >= MIN_BOX_PX).all(), "tiny vehicles are to be ignored"


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_labels_fit_the_picture_at_any_size(width: int, height: int) -> None:
    for seed in range(4):
        check_labels(render_scene(seed, width, height), width, height)


@pytest.mark.parametrize("style", STYLES)
def test_every_style_shows_a_road_with_traffic(style: str) -> None:
    scenes = [render_scene(seed, 320, 192, style=style) for seed in range(12)]
    for scene in scenes:
        check_labels(scene, 320, 192)
    assert np.mean([(s.drivable > 0).mean() for s in scenes]) > 0.12
    assert np.mean([(s.lane > 0).mean() for s in scenes]) > 0.004
    assert np.mean([len(s.boxes) for s in scenes]) > 1.0


def test_same_seed_same_bytes_other_seed_other_picture() -> None:
    first, again, other = (render_scene(seed, 320, 192) for seed in (7, 7, 8))
    for name in ("image", "boxes", "ignore_boxes", "drivable", "lane", "ids"):
        assert np.array_equal(getattr(first, name), getattr(again, name)), name
    assert not np.array_equal(first.image, other.image)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="32 x 32"):
        render_scene(0, 640, 16)
    with pytest.raises(ValueError, match="unknown style"):
        render_scene(0, 640, 384, style="moon")
    with pytest.raises(ValueError, match="frame rate"):
        Drive(0, 640, 384, 0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("heading", [0.0, 0.7, np.pi])
def test_vehicle_pixels_fill_the_projection_of_its_mesh(kind: str, heading: float) -> None:
    camera = PinholeCamera.create(640, 384, 600.0, 1.4, 0.0, (0.0, 0.03, 0.01))
    mesh = vehicle_mesh(kind, 3)
    paint = Paintwork((200, 30, 30), (200, 200, 200), (60, 60, 60), 30.0, False)
    position = np.array([1.5, 0.0, 24.0])
    look = draw_look(np.random.default_rng(0), daylight=True)
    drawn = draw_vehicle(mesh, paint, (position, heading), camera, look.light)
    assert drawn is not None
    patch, (left, top) = drawn
    rows, columns = np.nonzero(patch[..., 3] >= 128)
    found = (columns.min() + left, rows.min() + top, columns.max() + 1 + left, rows.max() + 1 + top)
    cos, sin = np.cos(heading), np.sin(heading)
    x, y, z = mesh.points.T
    ego = np.stack([x * cos + z * sin, y, z * cos - x * sin], axis=1) + position
    pixels = camera.image(camera.to_camera(ego))
    expected = np.concatenate([pixels.min(axis=0), pixels.max(axis=0)])
    # Outermost corners may be slivers that fill no pixel, never more than the projection.
    assert np.abs(np.array(found) - expected).max() < 2.0


def test_masks_lie_where_the_pinhole_camera_says() -> None:
    world = build_world(3, "rural")
    world = replace(world, shape=RoadShape((), ()), strips=(), junctions=0.0, crossings=False)
    assert world.lines, "this test needs a world with lines"
    camera = PinholeCamera.create(640, 384, 520.0, 1.5, 0.2, (0.02, 0.04, 0.015))
    view = RoadView(world.shape, 100.0, world.ego_d, 300.0)
    look = draw_look(np.random.default_rng(1), daylight=True)
    ground = render_ground(world, view, camera, look.light, Shadows([], []), 0.0)
    assert ground is not None
    right, up = camera.rays(ground.top)
    forward = -camera.height_m / np.minimum(up, -1e-6)
    d = right * forward + camera.x_m + world.ego_d
    # Metres of d across one pixel, along its row and its column.
    pixel_m = np.abs(np.gradient(d, axis=0)) + np.abs(np.gradient(d, axis=1))
    near = forward < 30.0
    low, high = world.road
    inside = (d > low + pixel_m) & (d < high - pixel_m)
    outside = (d < low - pixel_m) | (d > high + pixel_m)
    assert ground.road[near & inside].all()
    assert not ground.road[near & outside].any()
    to_line = np.min([np.abs(d - x.d) - x.width_m / 2 for x in world.lines], axis=0)
    assert not ground.lane[near & (to_line > pixel_m)].any()
    solid = [x for x in world.lines if x.dash is None]
    assert solid, "this test needs a solid line"
    to_solid = np.min([np.abs(d - x.d) - x.width_m / 2 for x in solid], axis=0)
    assert ground.lane[near & (to_solid < -pixel_m)].all()


def test_polygons_are_cut_at_the_near_plane() -> None:
    square = np.array([(-1.0, -1, -2), (1, -1, -2), (1, -1, 4), (-1, -1, 4)])
    cut = clip_near(square)
    assert cut[:, 2].min() == pytest.approx(0.6)
    assert len(cut) == 4
    assert len(clip_near(square - (0, 0, 9))) == 0


@pytest.mark.slow
def test_a_drive_is_continuous_and_can_be_entered_anywhere() -> None:
    drive = Drive(2, 480, 270, 30.0)
    frames = [drive.frame(index) for index in range(40, 46)]
    for scene in frames:
        check_labels(scene, 480, 270)
    assert np.array_equal(frames[5].image, Drive(2, 480, 270, 30.0).frame(45).image)
    large = 0
    for before, after in pairwise(frames):
        blurred = [cv2.GaussianBlur(s.image, (0, 0), 6).astype(float) for s in (before, after)]
        assert 0 < np.abs(blurred[0] - blurred[1]).mean() < 4.0
        changed = (before.drivable != after.drivable).mean()
        assert changed < 0.03
        for box in before.boxes:
            if min(box[2:] - box[:2]) > 14 and box[0] > 20 and box[2] < 460:
                large += 1
                everything = np.concatenate([after.boxes, after.ignore_boxes])
                assert max(iou(box, other) for other in everything) > 0.6
    assert large > 0
    far = drive.frame(600)
    assert np.abs(far.image.astype(float) - frames[0].image).mean() > 4.0, "the car moves"


def test_dataset_is_readable_deterministic_and_resumable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"count": 5, "width": 160, "height": 96, "seed": 3, "val_fraction": 0.4}
    one = write_dataset(tmp_path / "one", workers=1, **arguments)
    samples = read_split(one, "train")
    assert [s.stem for s in samples] == ["synth_3_000000", "synth_3_000001", "synth_3_000002"]
    assert len(read_split(one, "val")) == 2
    scene = render_scene(3 * 1_000_003 + 1, 160, 96)
    sample = samples[1]
    assert np.array_equal(read_mask(sample.drivable, (96, 160)), scene.drivable > 0)
    assert np.array_equal(read_mask(sample.lane, (96, 160)), scene.lane > 0)
    assert np.array_equal(sample.boxes[~sample.ignore], scene.boxes)
    assert np.array_equal(sample.boxes[sample.ignore], scene.ignore_boxes)
    difference = np.abs(read_image(sample.image_path).astype(int) - scene.image)
    assert difference.mean() < 6.0

    # Interrupted after two images, then continued, by two processes: the same bytes.
    drawn: list[int] = []
    original = synth_dataset._write_scene

    def interrupted(work: Path, spec: synth_dataset.DatasetSpec, index: int) -> None:
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(index)
        original(work, spec, index)

    with monkeypatch.context() as patch:
        patch.setattr(synth_dataset, "_write_scene", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_dataset(tmp_path / "two", workers=1, **arguments)
    assert not (tmp_path / "two").exists()
    with pytest.raises(UserError, match="other arguments"):
        write_dataset(tmp_path / "two", workers=1, **{**arguments, "seed": 4})
    two = write_dataset(tmp_path / "two", workers=2, **arguments)
    contents = [
        {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (one, two)
    ]
    assert contents[0] == contents[1]
    assert json.loads((one / "synth.json").read_text())["seed"] == 3


def test_dataset_command_refuses_mistakes(tmp_path: Path) -> None:
    out = tmp_path / "roads"
    command = ["dataset", str(out), "--count", "1", "--size", "64x48", "--workers", "1"]
    runner = CliRunner()
    assert runner.invoke(synth_app, command).exit_code == 0
    for arguments, message in (
        (command, "pass --overwrite"),
        ([*command[:4], "--size", "big"], "--size must look like"),
        (["dataset", str(tmp_path / "x"), "--count", "0"], "at least 1"),
        (["dataset", str(tmp_path / "x"), "--val-fraction", "2"], "0..1"),
        (["bag", str(tmp_path / "x"), "--seconds", "0"], "no frame"),
    ):
        result = runner.invoke(synth_app, arguments)
        assert isinstance(result.exception, UserError)
        assert message in str(result.exception)
    assert runner.invoke(synth_app, [*command, "--overwrite"]).exit_code == 0


def test_missing_roads_are_rendered_once_and_others_are_refused(tmp_path: Path) -> None:
    def source(seed: int) -> DataSource:
        roads = SyntheticRoads(count=2, width=96, height=64, seed=seed)
        return DataSource(root=tmp_path / "roads", split="train", synthetic=roads)

    render_missing([source(1)])
    (first, _) = samples = read_split(tmp_path / "roads", "train")
    assert [sample.labelled for sample in samples] == [True, True]
    rendered_ns = first.image_path.stat().st_mtime_ns
    render_missing([source(1)])
    assert first.image_path.stat().st_mtime_ns == rendered_ns
    with pytest.raises(UserError, match=r"holds other roads \(seed 1, not 2\): delete it"):
        render_missing([source(2)])
