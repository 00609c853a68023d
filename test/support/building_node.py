"""A node that builds, when it is configured, until it is interrupted; as a program.

Without a GPU there is nothing to build for, so the build is the real one of TensorRT-RTX for
another GPU, in place of the one for this machine's.
"""

import sys

import mtc_perception.node.node as node
from mtc_perception.core.bundle import Bundle
from mtc_perception.core.engine import Network
from mtc_perception.engines.tensorrt.build import BuildSettings, Tell, build_engine


def build_for_ada(bundle: Bundle, precision: str | None, tell: Tell) -> str:
    """Stands for `build_missing_engine`: the same build, but for a GPU that need not be here."""
    network = Network.of(bundle, "fp32")
    built = build_engine(network, BuildSettings("tensorrt_rtx", ("sm89",)), tell)
    return f"built {len(built.engine)} bytes"


if __name__ == "__main__":
    node.build_missing_engine = lambda *wanted: [build_for_ada(*wanted) for _ in range(99)]
    sys.argv += ["-p", "build_engine:=true"]
    sys.exit(node.main())
