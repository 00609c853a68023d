"""ament_python package: the vehicle package and the offline one, with what launch needs to find."""

import sys
from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

NAME = "mtc_perception"


def declared(*names: str) -> list[str]:
    """The requirements of requirements/NAME.in, where alone they are declared."""
    texts = (Path(f"requirements/{name}.in").read_text() for name in names)
    return [line for text in texts for line in text.splitlines() if not line.startswith("#")]


CUDA = [line for line in declared("tensorrt") if not line.startswith("tensorrt")]


def shared_files() -> list[tuple[str, list[str]]]:
    """(directory, files) under the install prefix: index marker, launch, config and bundles."""
    files = [
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", sorted(glob("launch/*.launch.py"))),
        (f"share/{NAME}/config", sorted(glob("config/*.*"))),
    ]
    for bundle in sorted(Path("models").glob("*.mtc")):
        members = sorted(bundle.rglob("*")) if bundle.is_dir() else [bundle]
        for folder in sorted({member.parent for member in members}):
            inside = [str(m) for m in members if m.parent == folder and m.is_file()]
            files.append((f"share/{NAME}/{folder}", inside))
    return files


setup(
    name=NAME,
    version="0.1.0",
    description="Real-time multi-task road perception for ROS 2, and its compression toolchain",
    maintainer="mtc_perception maintainers",
    maintainer_email="mtc-perception@example.com",
    license="Apache-2.0",
    packages=find_packages(include=[f"{NAME}*", "offline_compress*"]),
    package_data={"": ["*.j2", "*.cu"]},
    # An editable install runs from the checkout: copies in its prefix would only go stale.
    data_files=[] if "editable_wheel" in sys.argv else shared_files(),
    python_requires=">=3.10",
    # ROS 2 itself is in no package index: package.xml names what is needed of it.
    install_requires=declared("numpy", "runtime"),
    extras_require={
        "offline": declared("offline"),
        "openvino": declared("openvino"),
        "ray": declared("ray"),
        "tensorrt": [*CUDA, "tensorrt"],
        "tensorrt-rtx": declared("tensorrt"),
        # colcon test runs pytest when it finds it here.
        "test": declared("dev"),
    },
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "perception_node = mtc_perception.node:main",
            "mtc-compress = offline_compress.cli:main",
            "mtc-engine = mtc_perception.commands.engine:main",
            "mtc-replay = mtc_perception.replay.cli:main",
        ]
    },
)
