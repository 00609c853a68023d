"""The package as ROS sees it: what colcon says, builds, installs and tests; interface fields."""

import json
import os
import re
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml
from ament_index_python.packages import get_package_share_directory

import mtc_perception
from mtc_perception.core.bundle import read_bundle
from mtc_perception.node.parameters import camera_specs, node_specs
from support.workspace import ROOT, build_workspace, run, sourced

vision_msgs = pytest.importorskip("vision_msgs.msg", reason="source tools/ros_env.sh first")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    build_workspace(folder)
    return folder


def test_colcon_knows_the_package_as_ament_python() -> None:
    listed = run("colcon", "--log-base", os.devnull, "list", "--base-paths", ".")
    assert listed.split() == ["mtc_perception", ".", "(ros.ament_python)"]


def test_package_xml_names_every_ros_import() -> None:
    package = ET.parse(ROOT / "package.xml").getroot()
    assert package.get("format") == "3"
    assert package.findtext("version") == mtc_perception.__version__
    dependencies = {element.text for element in package.findall("exec_depend")}
    sources = [*ROOT.glob("mtc_perception/**/*.py"), *ROOT.glob("launch/*.py")]
    imported = {
        name
        for source in sources
        for name in re.findall(
            r"^\s*(?:from|import) (\w+_msgs|\w+_interfaces|rclpy|launch\w*)\b",
            source.read_text(),
            re.MULTILINE,
        )
    }
    assert {"rclpy", "sensor_msgs", "vision_msgs", "launch_ros"} <= imported
    assert imported <= dependencies
    assert not dependencies & {"cv_bridge", "torch", "tensorrt"}


def test_installed_files(workspace: Path) -> None:
    prefix = workspace / "install" / "mtc_perception"
    share = prefix / "share" / "mtc_perception"
    marker = prefix / "share" / "ament_index" / "resource_index" / "packages" / "mtc_perception"
    assert marker.is_file()
    assert os.access(prefix / "lib" / "mtc_perception" / "perception_node", os.X_OK)
    for folder, pattern in (("launch", "*.launch.py"), ("config", "*.*")):
        expected = {path.name for path in (ROOT / folder).glob(pattern)}
        assert {path.name for path in (share / folder).glob(pattern)} == expected != set()
    [site] = prefix.glob("lib/python3*/site-packages")
    for package in ("mtc_perception", "offline_compress"):
        files = (path for path in (ROOT / package).rglob("*.*") if path.suffix != ".pyc")
        missing = [path for path in files if not (site / path.relative_to(ROOT)).is_file()]
        assert not missing


def test_installed_package_runs_without_the_checkout(workspace: Path) -> None:
    """The installed copy is what is imported, and finds its shipped bundle, complete."""
    script = "import mtc_perception.node.parameters as p; print(p.__file__, p.default_bundle())"
    printed = subprocess.run(
        ["python", "-c", script],
        env=sourced(workspace),
        cwd=workspace,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    module, bundle = map(Path, printed.split())
    assert module.is_relative_to(workspace / "install")
    assert bundle.is_relative_to(workspace / "install")
    read_bundle(bundle)


def test_colcon_test_runs_pytest_here(workspace: Path) -> None:
    run(
        *("colcon", "test", "--return-code-on-test-failure"),
        *("--pytest-args", "test/core/test_timing.py"),
        cwd=workspace,
    )
    summary = run("colcon", "test-result", "--verbose", cwd=workspace)
    tests, errors, failures = map(
        int, re.findall(r"(\d+) (?:tests|errors|failures)", summary.splitlines()[-1])
    )
    assert tests > 0
    assert errors == failures == 0


VISION_MSGS_FIELDS = {
    "Point2D": {"x": "double", "y": "double"},
    "Pose2D": {"position": "vision_msgs/Point2D", "theta": "double"},
    "BoundingBox2D": {"center": "vision_msgs/Pose2D", "size_x": "double", "size_y": "double"},
    "ObjectHypothesis": {"class_id": "string", "score": "double"},
    "ObjectHypothesisWithPose": {
        "hypothesis": "vision_msgs/ObjectHypothesis",
        "pose": "geometry_msgs/PoseWithCovariance",
    },
    "Detection2D": {
        "header": "std_msgs/Header",
        "results": "sequence<vision_msgs/ObjectHypothesisWithPose>",
        "bbox": "vision_msgs/BoundingBox2D",
        "id": "string",
    },
    "Detection2DArray": {
        "header": "std_msgs/Header",
        "detections": "sequence<vision_msgs/Detection2D>",
    },
    "VisionClass": {"class_id": "uint16", "class_name": "string"},
    "LabelInfo": {
        "header": "std_msgs/Header",
        "class_map": "sequence<vision_msgs/VisionClass>",
        "threshold": "float",
    },
    "VisionInfo": {
        "header": "std_msgs/Header",
        "method": "string",
        "database_location": "string",
        "database_version": "int32",
    },
}


@pytest.mark.parametrize("name", VISION_MSGS_FIELDS)
def test_vision_msgs_fields_are_those_of_release_4(name: str) -> None:
    """Names, types and order decide the wire format and the type hash."""
    fields = getattr(vision_msgs, name).get_fields_and_field_types()
    assert list(fields.items()) == list(VISION_MSGS_FIELDS[name].items())


@pytest.mark.parametrize(
    ("name", "released"),
    [
        (
            "Detection2DArray",
            "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968",
        ),
        ("LabelInfo", "RIHS01_3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783"),
        ("VisionInfo", "RIHS01_95d3116a17484ad91c9a2686e1d54890bbfc3ff6c6a2de137738c4950d45d284"),
    ],
)
def test_vision_msgs_type_hashes_are_those_of_the_released_package(
    name: str, released: str
) -> None:
    file = Path(get_package_share_directory("vision_msgs")) / "msg" / f"{name}.json"
    if not file.is_file():
        pytest.skip("this ROS distribution has no type hashes (Humble)")
    hashes = json.loads(file.read_text())["type_hashes"]
    assert {"type_name": f"vision_msgs/msg/{name}", "hash_string": released} in hashes


def test_default_parameter_file_is_the_nodes_defaults() -> None:
    given = parameters_of("perception.yaml")
    specs = node_specs()
    assert given == {name: specs[name].default for name in specs if name != "bundle"}


def test_multi_camera_file_has_known_parameters_only() -> None:
    given = parameters_of("multi_camera.yaml")
    cameras = given["cameras"]
    assert isinstance(cameras, list)
    assert len(cameras) > 1
    known = node_specs()
    for camera in cameras:
        known.update(camera_specs(camera, alone=False))
    for name, value in given.items():
        assert type(value) is type(known[name].default), name
        assert not known[name].choices or value in known[name].choices


def parameters_of(file: str) -> dict[str, object]:
    """Flat parameter names and values of a file in config/."""
    tree = yaml.safe_load((ROOT / "config" / file).read_text())["/**"]["ros__parameters"]
    flat: dict[str, object] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{leaf}": inner for leaf, inner in value.items()})
        else:
            flat[name] = value
    return flat
