"""Whether tests that need an NVIDIA GPU can run here: they are marked `gpu`."""

from functools import cache

import pytest

from mtc_perception.engines.tensorrt.cuda import current_device
from mtc_perception.util.errors import EngineError


@cache
def missing_gpu() -> str:
    """Why no GPU can be used here; empty if one can."""
    try:
        current_device()
    except EngineError as error:
        return str(error)
    return ""


without_gpu = pytest.mark.skipif(not missing_gpu(), reason="this machine has a GPU")
