"""The two TensorRT libraries that an engine may be for, and what they say when they fail."""

import importlib
import threading
from collections import deque
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

from mtc_perception.engines.tensorrt.key import Flavour
from mtc_perception.util.errors import EngineError

NAMES: dict[Flavour, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
"""What the libraries are called, the preferred one first."""
_SUPPORTED: dict[Flavour, tuple[int, ...]] = {"tensorrt": (10, 11), "tensorrt_rtx": (1,)}
"""Major versions."""
INSTALL = (
    "install tensorrt (it comes with JetPack; elsewhere see docs/tensorrt.md), or"
    " pip install tensorrt-rtx"
)
_KEPT = 64
"""Errors, and as many warnings, that are kept of what a library says."""


def installed_flavours() -> list[Flavour]:
    """The libraries that are installed here, the preferred one first."""
    return [flavour for flavour in NAMES if find_spec(flavour) is not None]


def require_flavours() -> list[Flavour]:
    """What is installed here, which must be something. Raises EngineError."""
    found = installed_flavours()
    if not found:
        raise EngineError(f"neither TensorRT nor TensorRT-RTX is installed: {INSTALL}")
    return found


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
        why = " ".join(str(error).split())
        raise EngineError(f"{name} cannot be imported ({why}); {INSTALL}") from error
    if version.partition(".")[0] not in map(str, majors):
        wanted = " or ".join(f"{major}.x" for major in majors)
        raise EngineError(f"{name} {version} is not supported: install {wanted}")
    return TensorRtLibrary(module, flavour, version)


class LibraryLog:
    """The last errors and warnings of a library, whoever in the process they are for."""

    def __init__(self, trt: Any) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._errors: deque[tuple[int, str]] = deque(maxlen=_KEPT)
        self._warnings: deque[tuple[int, str]] = deque(maxlen=_KEPT)
        severity, add = trt.ILogger.Severity, self._add
        kept = {
            severity.INTERNAL_ERROR: self._errors,
            severity.ERROR: self._errors,
            severity.WARNING: self._warnings,
        }

        class Logger(trt.ILogger):
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, level: Any, message: str) -> None:
                if level in kept:
                    add(kept[level], message)

        self.logger: Any = Logger()
        """The `ILogger` for everything that is made with the library."""

    def mark(self) -> int:
        """A point in the log to look from, later on: now."""
        with self._lock:
            return self._count

    def errors(self, since: int) -> list[str]:
        """Errors after a `mark`, a line each; the first one tells why."""
        return self._after(since, self._errors)

    def warnings(self, since: int) -> list[str]:
        """Warnings after a `mark`, a line each."""
        return self._after(since, self._warnings)

    def _add(self, kept: deque[tuple[int, str]], message: str) -> None:
        with self._lock:
            kept.append((self._count, " ".join(message.split())))
            self._count += 1

    def _after(self, since: int, kept: deque[tuple[int, str]]) -> list[str]:
        with self._lock:
            return [text for number, text in kept if number >= since]


def library_log(library: TensorRtLibrary) -> LibraryLog:
    """The log of a library, the same for everybody."""
    return _log_of(library.module)


@cache
def _log_of(module: Any) -> LibraryLog:
    # One per library and never freed: of all loggers that it is given in a process, the library
    # keeps the first one for what it says on its own, and warns of the others. It would call that
    # one even after the engine that brought it is gone.
    return LibraryLog(module)


def deserialised(library: TensorRtLibrary, serialised: bytes, remedy: str = "") -> Any:
    """The `ICudaEngine` of a serialised engine.

    Raises EngineError, with what the library says, if it does not start or load the engine here;
    `remedy` says what to do about the latter.
    """
    log = library_log(library)
    begin = log.mark()
    try:
        runtime = library.module.Runtime(log.logger)
    except (TypeError, RuntimeError) as error:  # how the bindings say that there is none
        raise EngineError(failure(library, f"does not start ({error})", begin)) from error
    engine = runtime.deserialize_cuda_engine(serialised)
    if engine is None:
        reason = failure(library, "cannot load the engine", begin)
        raise EngineError(f"{reason}; {remedy}" if remedy else reason)
    return engine


def failure(library: TensorRtLibrary, what: str, since: int) -> str:
    """That the library `what`, with the first thing that it has logged as an error since then."""
    reason = next(iter(library_log(library).errors(since)), "it does not say why")
    return f"{library.title} {what}: {reason}"
