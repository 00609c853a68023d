"""The README tells the truth: its numbers are the committed results, its names exist."""

import re

import pytest

from bench.readme import numbers, rewritten
from support.checkout import ROOT

README = (ROOT / "README.md").read_text()


def test_the_numbers_are_those_of_the_results() -> None:
    assert rewritten(README, numbers(ROOT / "results")) == README
    assert "| **mtc_nano** |" in README


def test_every_linked_file_exists() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).is_file(), link


def test_every_path_and_make_target_it_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z]+)\b", README, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for path in re.findall(r"\b((?:config|models|docs|tools)/[\w./]+\.\w+)", README):
        assert (ROOT / path).exists(), path


def test_the_parameter_table_is_the_node_s() -> None:
    parameters = pytest.importorskip("mtc_perception.node.parameters", reason="needs rclpy")
    specs = parameters.node_specs() | parameters.camera_specs("<camera>", alone=True)
    rows = {
        name: cells
        for line in README.splitlines()
        if line.startswith("| `")
        for name, *cells in [[cell.strip(" `") for cell in line.strip("|").split("|")]]
    }
    for name, spec in specs.items():
        assert name in rows, name
        default, _, live = rows[name]
        assert (live == "yes") == spec.live, name
        if name != "bundle":
            written = str(spec.default).replace("'", "")
            assert default == written or float(default) == float(written), name


def test_every_output_topic_is_listed() -> None:
    camera = (ROOT / "mtc_perception" / "camera.py").read_text()
    topics = re.findall(r'publisher\(\w+, "(\w+)"', camera)
    assert len(topics) >= 6
    for topic in topics:
        assert f"`{topic}`" in README, topic
