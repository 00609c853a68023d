"""Nodes that talk over real DDS, and what talks to them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mtc_perception.core.bundle import Thresholds
from support.toy_bundle import write_toy_bundle


@pytest.fixture
def start_node(toy_bundle: Path) -> Iterator[Callable[..., Any]]:
    """Call it with parameters for a `node_rig.Rig` on the toy bundle; closed after the test."""
    from support.node_rig import Rig

    rigs: list[Rig] = []

    def start(**parameters: object) -> Rig:
        # Tests make bundles in folders of their own.
        defaults = {"bundle": str(toy_bundle), "bundle_folders": "/", "threads": 1}
        rigs.append(Rig(defaults | parameters))
        return rigs[-1]

    yield start
    for rig in rigs:
        rig.close()


@pytest.fixture
def client() -> Iterator[Any]:
    """A `node_rig.Client` for nodes that are processes of their own."""
    import rclpy
    from rclpy.context import Context

    from support.node_rig import Client

    context = Context()
    rclpy.init(context=context)
    client = Client(context)
    yield client
    client.executor_.shutdown()
    client.destroy_node()
    context.try_shutdown()


@pytest.fixture(scope="session")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Differs from the toy bundle in everything that an output can show."""
    from support.swap_rig import OTHER_CLASSES

    return write_toy_bundle(
        tmp_path_factory.mktemp("swap") / "other.mtc",
        height=64,
        width=128,
        name="other",
        classes=OTHER_CLASSES,
        thresholds=Thresholds(score=0.1, drivable=0.5, lane=0.5),
    )
