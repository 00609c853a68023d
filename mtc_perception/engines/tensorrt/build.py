"""Building TensorRT engines, each in a process of its own (`build_process`)."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mtc_perception.core.bundle import Bundle, sha256_hex
from mtc_perception.core.engine import Network
from mtc_perception.engines.tensorrt.cuda import current_device
from mtc_perception.engines.tensorrt.engine import check_supported
from mtc_perception.engines.tensorrt.key import EngineKey, Flavour, Profile
from mtc_perception.engines.tensorrt.library import (
    INSTALL,
    NAMES,
    import_library,
    installed_flavours,
    require_flavours,
)
from mtc_perception.engines.tensorrt.store import EngineStore
from mtc_perception.util.errors import EngineError
from mtc_perception.util.provenance import command_line

CURRENT = "current"
"""The target that is this machine's GPU."""
RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""Compute capabilities that TensorRT-RTX builds for without having such a GPU."""
JETSONS = {
    "sm53": "Jetson Nano",
    "sm62": "Jetson TX2",
    "sm72": "Jetson Xavier",
    "sm87": "Jetson Orin",
    "sm101": "Jetson Thor",
    "sm110": "Jetson Thor",
}
"""Compute capabilities that only these have; CUDA 13 calls Thor's 11.0."""

Tell = Callable[[str, float], None]
"""Told what the builder is doing and how far it is altogether, in 0..1."""


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """How engines are built, whatever the network."""

    flavour: Flavour
    targets: tuple[str, ...] = (CURRENT,)
    """`current` alone, or of `RTX_TARGETS`: one engine then serves GPUs of each."""
    batch: int = 1
    """Images at a time, where the graph leaves that open."""
    workspace_mib: int | None = None
    """Most scratch memory of the GPU that a layer may take; None: all there is."""
    timings: Path | None = None
    """Folder where TensorRT keeps kernel timings between builds; TensorRT-RTX measures none."""

    def __post_init__(self) -> None:
        """Raises EngineError if the flavour does not build for the targets."""
        if CURRENT in self.targets:
            if self.targets != (CURRENT,):
                raise EngineError(f"the target {CURRENT} stands alone, not beside others")
            return
        for target in self.targets:
            if target in JETSONS:
                raise EngineError(
                    f"{target} is {JETSONS[target]}, whose engines are built on it: run mtc-engine "
                    "build BUNDLE there, with the TensorRT of its JetPack"
                )
        if self.flavour == "tensorrt":
            raise EngineError(
                "TensorRT builds for the GPU of its own machine only: leave --target out,"
                " or take --flavour rtx"
            )
        for target in self.targets:
            if target not in RTX_TARGETS:
                raise EngineError(
                    f"TensorRT-RTX does not build for {target!r}; choose {CURRENT},"
                    f" {', '.join(RTX_TARGETS)}"
                )


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """A serialised engine with its key and what is known about it."""

    key: EngineKey
    engine: bytes
    about: dict[str, Any]
    """JSON: seconds, inputs, outputs, layers, products (convolutions and matrix products by
    precision), built (UTC), command."""


def default_flavour(targets: Sequence[str] = (CURRENT,)) -> Flavour:
    """The library that builds for `targets`: the preferred one of those that can be imported.

    Raises EngineError where there is none.
    """
    if CURRENT not in targets:
        return "tensorrt_rtx"
    refusals = []
    for flavour in require_flavours():
        try:
            import_library(flavour)
        except EngineError as error:
            refusals.append(str(error))
        else:
            return flavour
    raise EngineError("; ".join(refusals))


def check_available(settings: BuildSettings) -> None:
    """Raise EngineError unless the library is installed and, if it is to build for this machine's
    GPU, there is one that it supports."""
    if settings.flavour not in installed_flavours():
        raise EngineError(f"{NAMES[settings.flavour]} is not installed: {INSTALL}")
    if settings.targets != (CURRENT,):
        return
    try:
        device = current_device()
    except EngineError as error:
        raise EngineError(
            f"{error}; name the GPU to build for, TensorRT-RTX does it anywhere: --flavour rtx"
            " --target sm89"
        ) from error
    check_supported(import_library(settings.flavour), device)


def fitting_variants(bundle: Bundle, precisions: Sequence[str] = ()) -> list[str]:
    """Keys of the bundle's variants for TensorRT, of `precisions` only if any are given.

    Raises BundleError if there is none of one of them, or none at all.
    """
    if precisions:
        return [
            key
            for one in dict.fromkeys(precisions)
            for key in bundle.variants_for("tensorrt", one)[:1]
        ]
    return bundle.variants_for("tensorrt")


def build_engine(
    network: Network, settings: BuildSettings, tell: Tell = lambda _phase, _fraction: None
) -> BuiltEngine:
    """Build `network` in a process of its own, which ends with this call whatever happens.

    Raises EngineError if the library is missing or does not fit this machine, and with the
    library's reason if it refuses the network or crashes.
    """
    check_available(settings)
    with (
        tempfile.TemporaryFile() as graph,
        tempfile.TemporaryFile() as engine,
        tempfile.TemporaryFile() as errors,
    ):
        graph.write(network.model)
        graph.seek(0)
        request = {
            "flavour": settings.flavour,
            "targets": settings.targets,
            "batch": settings.batch,
            "workspace_mib": settings.workspace_mib,
            "timings": str(settings.timings) if settings.flavour == "tensorrt" else None,
            "out": engine.fileno(),
            "parent": os.getpid(),
        }
        answer = _run_apart(request, graph, engine, errors, tell)
        if "refused" in answer:
            raise EngineError(f"{_what(network, settings)}: {answer['refused']}")
        about = answer["built"]
        engine.seek(0)
        key = EngineKey(
            model_sha256=sha256_hex(network.model),
            precision=network.precision,
            profile=Profile(settings.batch, network.height, network.width),
            flavour=settings.flavour,
            version=about.pop("version"),
            gpu=about.pop("gpu"),
            multiprocessors=about.pop("multiprocessors"),
            memory_mib=about.pop("memory_mib"),
            compute_capability=tuple(about.pop("compute_capability")),
        )
        about |= {
            "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "command": command_line([Path(sys.argv[0]).name, *sys.argv[1:]]),
        }
        return BuiltEngine(key, engine.read(), about)


def build_variant(
    bundle: Bundle,
    variant: str,
    settings: BuildSettings,
    store: EngineStore,
    tell: Tell = lambda _phase, _fraction: None,
) -> tuple[BuiltEngine, Path]:
    """Build one variant of a bundle and keep it in `store`; returns it and where it lies.

    Raises EngineError, BundleError.
    """
    most = bundle.manifest.input.max_batch
    if settings.batch > most:
        raise EngineError(f"{bundle.path}: takes batches of {most} at most, not {settings.batch}")
    store.check_writable()  # before it takes minutes
    built = build_engine(Network.of(bundle, variant), settings, tell)
    about = built.about | {"bundle": bundle.path.name}
    return built, store.put(built.key, built.engine, about)


def _run_apart(
    request: dict[str, Any], graph: IO[bytes], engine: IO[bytes], errors: IO[bytes], tell: Tell
) -> dict[str, Any]:
    """The last line that the building process says."""
    command = [sys.executable, "-m", f"{__package__}.build_process", json.dumps(request)]
    answer: dict[str, Any] | None = None
    process = subprocess.Popen(
        command,
        stdin=graph,
        stdout=subprocess.PIPE,
        stderr=errors,
        pass_fds=[engine.fileno()],
        text=True,
        encoding="utf-8",
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            answer = json.loads(line)
            if "phase" in answer:
                tell(answer["phase"], answer["fraction"])
        code = process.wait()
    finally:  # Ctrl-C too
        process.kill()
        process.wait()
        process.stdout.close()
    if answer is None or "phase" in answer:
        answer = {"refused": _death(code, errors)}
    return answer


def _death(code: int, errors: IO[bytes]) -> str:
    """Why the building process ended without an answer."""
    if code < 0:
        return f"the builder crashes ({signal.Signals(-code).name})"
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return f"the builder fails: {lines[-1] if lines else f'exit code {code}'}"


def _what(network: Network, settings: BuildSettings) -> str:
    targets = "this GPU" if settings.targets == (CURRENT,) else ", ".join(settings.targets)
    return f"{NAMES[settings.flavour]} for {targets}, {network.precision}"
