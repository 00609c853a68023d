"""Whether tests that need an NVIDIA GPU can run here."""

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


needs_gpu = pytest.mark.skipif(bool(missing_gpu()), reason=missing_gpu())
