"""The two TensorRT libraries that an engine may be for, and what they say when they fail."""

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from mtc_perception.engine_key import Flavour
from mtc_perception.errors import EngineError

NAMES: dict[Flavour, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
"""What the libraries are called, the preferred one first."""
_SUPPORTED: dict[Flavour, tuple[int, ...]] = {"tensorrt": (10, 11), "tensorrt_rtx": (1,)}
"""Major versions."""
INSTALL = (
    "install tensorrt (it comes with JetPack; elsewhere see docs/tensorrt.md), or"
    " pip install tensorrt-rtx"
)
_MOST_ERRORS = 8
"""Kept of what a library says at once; the first ones tell why."""


def installed_flavours() -> list[Flavour]:
    """The libraries that are installed here, the preferred one first."""
    return [flavour for flavour in NAMES if find_spec(flavour) is not None]


@dataclass(frozen=True, slots=True)
class TensorRtLibrary:
    """An imported library."""

    module: Any
    flavour: Flavour
    version: str

    @property
    def title(self) -> str:
        return f"{NAMES[self.flavour]} {self.version}"


def import_library(flavour: Flavour) -> TensorRtLibrary:
    """Import a library. Raises EngineError if it cannot be, or if its version is not supported."""
    name, majors = NAMES[flavour], _SUPPORTED[flavour]
    try:
        module = importlib.import_module(flavour)
        version = str(module.__version__)
    except Exception as error:  # it loads other libraries and looks for a driver
        raise EngineError(f"{name} cannot be imported ({error}); {INSTALL}") from error
    if version.partition(".")[0] not in map(str, majors):
        wanted = " or ".join(f"{major}.x" for major in majors)
        raise EngineError(f"{name} {version} is not supported: install {wanted}")
    return TensorRtLibrary(module, flavour, version)


def error_log(library: TensorRtLibrary) -> tuple[Any, list[str]]:
    """A logger for the library, and the errors that it collects until somebody clears them.

    The logger must outlive what is made with it.
    """
    trt: Any = library.module
    severity = trt.ILogger.Severity
    errors: list[str] = []

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, level: Any, message: str) -> None:
            if level in (severity.INTERNAL_ERROR, severity.ERROR) and len(errors) < _MOST_ERRORS:
                errors.append(" ".join(message.split()))

    return Log(), errors
