"""What pip installs, and that everything it needs is declared once."""

import os
import pkgutil
import re
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support.checkout import ROOT
from support.workspace import copy_checkout
from tools import licences

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REQUIREMENTS = ROOT / "requirements"
BY_HAND = {"build", "ros"}
LOCKS = {"numpy": ["numpy1", "numpy2"]}
"""Locks of declarations that have another name than their own."""


def declared(name: str) -> dict[str, Requirement]:
    lines = (REQUIREMENTS / f"{name}.in").read_text().splitlines()
    found = [Requirement(line) for line in lines if not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    copy_checkout(folder / "source")
    command = ["pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "..", "."]
    built = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder / "source",
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    [path] = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_a_wheel_needs_what_is_declared_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    [name] = [name for name in wheel.namelist() if name.endswith("dist-info/METADATA")]
    needed: dict[str, set[str]] = {}
    for line in message_from_bytes(wheel.read(name)).get_all("Requires-Dist", []):
        requirement = Requirement(line)
        extra = re.search(r"extra == ['\"]([\w-]+)", line)
        needed.setdefault(extra[1] if extra else "", set()).add(canonicalize_name(requirement.name))
    assert needed[""] == set(declared("numpy")) | set(declared("runtime"))
    for extra in ("offline", "openvino", "ray"):
        assert needed[extra] == set(declared(extra))
    assert needed["tensorrt-rtx"] == set(declared("tensorrt"))
    assert "tensorrt" in needed["tensorrt"]


def test_a_wheel_has_every_file_of_the_packages(wheel: zipfile.ZipFile) -> None:
    sources = {
        str(path.relative_to(ROOT))
        for package in ("mtc_perception", "offline_compress")
        for path in (ROOT / package).rglob("*.*")
        if path.suffix != ".pyc"
    }
    installed = wheel.namelist()
    assert any(source.endswith(".j2") for source in sources)
    assert any(source.endswith(".cu") for source in sources)
    assert sources <= set(installed)
    shared = "share/mtc_perception/models/mtc_nano.mtc/manifest.json"
    assert any(name.endswith(shared) for name in installed)


def test_locks_are_made_from_what_is_declared() -> None:
    declarations = {path.stem for path in REQUIREMENTS.glob("*.in")}
    locks = {path.stem for path in REQUIREMENTS.glob("*.txt")} - BY_HAND
    assert locks == {lock for name in declarations for lock in LOCKS.get(name, [name])}
    for name in declarations:
        for lock in LOCKS.get(name, [name]):
            pinned: dict[str, list[Requirement]] = {}
            for line in (REQUIREMENTS / f"{lock}.txt").read_text().splitlines():
                if not line.startswith("#"):
                    pin = Requirement(line)
                    pinned.setdefault(canonicalize_name(pin.name), []).append(pin)
            assert set(pinned) == set(declared(name)), f"run tools/lock.sh ({lock}.txt)"
            for package, requirement in declared(name).items():
                for pin in pinned[package]:
                    [version] = [one.version for one in pin.specifier]
                    assert requirement.specifier.contains(version, prereleases=True), pin


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_every_lock_has_one_version_for_each_python(python: str) -> None:
    environment = {
        **{str(key): str(value) for key, value in default_environment().items()},
        "python_version": python,
        "python_full_version": f"{python}.4",
        "platform_machine": "x86_64",
    }
    for path in REQUIREMENTS.glob("*.txt"):
        names = [
            canonicalize_name(pin.name)
            for line in path.read_text().splitlines()
            if line and not line.startswith("#")
            for pin in [Requirement(line)]
            if pin.marker is None or pin.marker.evaluate(environment)
        ]
        assert len(names) == len(set(names)), path


BROKEN = {
    "mtc_perception/runtime/breaks_torch.py": ("import torch", "No torch on the vehicle"),
    "mtc_perception/core/breaks_offline.py": (
        "import offline_compress.export",
        "The vehicle's package never imports offline_compress",
    ),
    "mtc_perception/runtime/breaks_ros.py": (
        "import rclpy",
        "ROS in the node and in live replay alone",
    ),
    "mtc_perception/node/breaks_below.py": (
        "import mtc_perception.replay.cli",
        "Layers of the vehicle's package",
    ),
    "offline_compress/models/breaks_replay.py": (
        "import mtc_perception.replay.cli",
        "Replay is for the programs: of offline_compress, the rendered drives write recordings",
    ),
    "offline_compress/models/breaks_layer.py": (
        "import offline_compress.pruning",
        "Layers of offline_compress",
    ),
    "mtc_perception/breaks_layers.py": ("", "Layers of the vehicle's package"),
    "mtc_perception/replay/breaks_layers.py": ("", "Layers of replay"),
    "offline_compress/breaks_layers.py": ("", "Layers of offline_compress"),
}
"""Files that break a rule of imports: the line in each, and the rule."""


def test_broken_rules_of_imports_are_found(tmp_path: Path) -> None:
    copy_checkout(tmp_path / "checkout")

    def lint() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["lint-imports", "--no-cache"],
            cwd=tmp_path / "checkout",
            env=os.environ | {"COLUMNS": "200"},  # names of rules stay in one line
            capture_output=True,
            text=True,
            check=False,
        )

    whole = lint()
    assert whole.returncode == 0, whole.stdout
    assert "BROKEN" not in whole.stdout
    for path, (line, _) in BROKEN.items():
        (tmp_path / "checkout" / path).write_text(f"{line}\n")
    checked = lint()
    assert checked.returncode != 0
    # A summary, then under the name of each rule what breaks it.
    told = dict(re.findall(r"^(.+)\n-+\n\n(?s:(.*?))(?=^.+\n-+\n\n|\Z)", checked.stdout, re.M))
    for path, (_, rule) in BROKEN.items():
        assert re.search(rf"^{re.escape(rule)} BROKEN\b", checked.stdout, re.M), checked.stdout
        module = path.removesuffix(".py").replace("/", ".")
        assert re.search(rf"\b{re.escape(module)}\b", told[rule]), (rule, module, checked.stdout)


def test_ros_is_kept_out_of_all_but_the_node_and_live_replay() -> None:
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    [ros] = [one for one in rules["contracts"] if "rclpy" in one.get("forbidden_modules", ())]
    free = {
        f"mtc_perception.{prefix}{room.name}"
        for prefix, path in (("", "mtc_perception"), ("replay.", "mtc_perception/replay"))
        for room in pkgutil.iter_modules([str(ROOT / path)])
    }
    free -= {"mtc_perception.node", "mtc_perception.replay", "mtc_perception.replay.live"}
    assert set(ros["source_modules"]) == free | {"offline_compress"}


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 OR GPL-3.0-only", True),
        ("MPL-2.0 AND (MIT)", True),
        ("Mozilla Public License 2.0 (MPL 2.0)", True),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only", False),
        ("", False),
    ],
)
def test_licences_on_the_list(expression: str, allowed: bool) -> None:
    names = ["MIT", "Apache-2.0", "MPL-2.0", "Mozilla Public License 2.0 (MPL 2.0)"]
    assert licences.is_allowed(expression, names) == allowed


@pytest.mark.fault(
    area="security",
    row="a dependency has a licence that is not on the list",
    answer="`make lint` fails.",
    diagnostics="The package, its version and what it says of its licence.",
)
def test_all_licences_are_on_the_list(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert licences.main() == 0
    assert {"numpy", "pydantic"} <= set(licences.installed())
    monkeypatch.setattr(licences, "licence", lambda package: "GPL-3.0-only")
    assert licences.main() == 1
    assert "'GPL-3.0-only' is not on the list" in capsys.readouterr().out
