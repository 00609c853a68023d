"""Builds one engine: `python -m mtc_perception.engines.tensorrt.build_process REQUEST`.

`build` starts it. A builder that crashes takes only this process with it, and one that is
no longer wanted ends with it. The graph comes in on stdin, the engine goes to the open file that
the request names, and stdout carries one JSON object per line: `{"phase", "fraction"}` while it
builds, then `{"built": ...}` or `{"refused": reason}`.
"""

import ctypes
import json
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import IO, Any

from mtc_perception.engines.tensorrt.cuda import Device, current_device
from mtc_perception.engines.tensorrt.library import LibraryLog, import_library, library_log
from mtc_perception.util.errors import EngineError
from mtc_perception.util.files import write_bytes_atomic
from mtc_perception.util.private import make_private

_PR_SET_PDEATHSIG = 1
_REPORT_PERIOD_S = 0.1
_PRECISIONS = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8", "FP8": "fp8"}


class PhaseProgress:
    """How far a build is, from the nested phases that TensorRT reports."""

    def __init__(self) -> None:
        self._phases: dict[str, tuple[str | None, int, int]] = {}  # parent, steps, steps done
        self.fraction = 0.0
        """Part of the outermost phase that is done, in 0..1; never falls."""

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase of `steps` steps begins, inside one step of `parent` or on its own."""
        self._phases[phase] = (parent, steps, 0)

    def step(self, phase: str, step: int) -> None:
        """Step number `step`, from 0, of a phase is done."""
        if phase not in self._phases:
            return
        parent, steps, _ = self._phases[phase]
        self._phases[phase] = (parent, steps, step + 1)
        for name, (parent, _, _) in self._phases.items():
            if parent not in self._phases:
                self.fraction = max(self.fraction, min(self._part(name), 1.0))

    def finish(self, phase: str) -> None:
        """A phase is over, whether or not all its steps were reported."""
        self._phases.pop(phase, None)

    def _part(self, phase: str) -> float:
        _, steps, done = self._phases[phase]
        inside = [self._part(name) for name, one in self._phases.items() if one[0] == phase]
        return (done + max(inside, default=0.0)) / max(steps, 1)


def build(request: dict[str, Any], graph: bytes, out: IO[bytes], report: IO[str]) -> dict[str, Any]:
    """Build the engine of `graph` into `out`; returns what is known about it.

    Raises EngineError with the parser's or the builder's reason.
    """
    device, capabilities = _device(request["targets"])
    library = import_library(request["flavour"])
    trt = library.module
    log = library_log(library)
    begin = log.mark()
    # A constructor that fails raises whatever its bindings make of a null pointer.
    try:
        builder = trt.Builder(log.logger)
    except (TypeError, RuntimeError) as error:
        reason = _reason(log, begin) or error
        raise EngineError(f"the builder does not start: {reason}") from error
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse(graph):
        why = _parser_error(parser) if parser.num_errors else f"the graph: {_reason(log, begin)}"
        raise EngineError(f"the parser refuses {why}")
    config = builder.create_builder_config()
    _set_batch(builder, network, config, request["batch"])
    _set_targets(trt, config, request["targets"])
    if request["workspace_mib"]:
        workspace = request["workspace_mib"] * 2**20
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    # What `inspect` reads back: names alone say nothing about precision.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    timings = timings_file(request["timings"], device, library.version)
    if timings is not None:
        read_timings(config, timings)
    monitor = _monitor(trt, report)
    config.progress_monitor = monitor
    begin_s = time.monotonic()
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        reason = _reason(log, begin) or "no reason given"
        raise EngineError(f"the builder refuses the network: {reason}")
    seconds = time.monotonic() - begin_s
    out.write(engine)
    out.flush()
    if timings is not None:
        make_private(timings.parent)
        cache = bytes(config.get_timing_cache().serialize())
        write_bytes_atomic(timings, cache, private=True)
    return {
        "version": library.version,
        "gpu": device.name if device else "",
        "multiprocessors": device.multiprocessors if device else 0,
        "memory_mib": device.memory_mib if device else 0,
        "compute_capability": capabilities,
        "seconds": round(seconds, 3),
        "inputs": [_tensor(network.get_input(i)) for i in range(network.num_inputs)],
        "outputs": [_tensor(network.get_output(i)) for i in range(network.num_outputs)],
        "layers": network.num_layers,
        "products": products(network),
    }


def products(network: Any) -> dict[str, int]:
    """Convolutions and matrix products of a strongly typed network, by the precision they run at.

    One whose input was just dequantised runs in int8: TensorRT fuses the two.
    """
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    dequantised = {layer.get_output(0).name for layer in layers if layer.type.name == "DEQUANTIZE"}
    counts = Counter[str]()
    for layer in layers:
        if layer.type.name not in ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY"):
            continue
        if layer.get_input(0).name in dequantised:
            counts["int8"] += 1
        else:
            dtype = layer.get_output(0).dtype.name
            counts[_PRECISIONS.get(dtype, dtype.lower())] += 1
    return dict(sorted(counts.items()))


def _monitor(trt: Any, report: IO[str]) -> Any:
    progress = PhaseProgress()
    last_s = 0.0
    lock = threading.Lock()

    class Monitor(trt.IProgressMonitor):
        """Called by several threads of the builder, which do not survive an exception."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with lock:
                progress.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            nonlocal last_s
            with lock:
                progress.step(phase_name, step)
                now_s = time.monotonic()
                if now_s - last_s >= _REPORT_PERIOD_S:
                    last_s = now_s
                    _say(report, {"phase": phase_name, "fraction": round(progress.fraction, 4)})
            return True

        def phase_finish(self, phase_name: str) -> None:
            with lock:
                progress.finish(phase_name)

    return Monitor()


def _set_targets(trt: Any, config: Any, targets: list[str]) -> None:
    """Compute capabilities of the engine; only TensorRT-RTX builds for others than this GPU."""
    if not hasattr(config, "set_compute_capability"):
        return
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        capability = getattr(trt.ComputeCapability, target.upper())
        if not config.set_compute_capability(capability, index):
            raise EngineError(f"the builder refuses the target {target}")


def _set_batch(builder: Any, network: Any, config: Any, batch: int) -> None:
    """One fixed profile of `batch` images where the graph leaves their number open."""
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if shape[0] == -1:
            profile = builder.create_optimization_profile()
            fixed = (batch, *shape[1:])
            profile.set_shape(tensor.name, fixed, fixed, fixed)
            config.add_optimization_profile(profile)
        elif shape[0] != batch:
            raise EngineError(
                f"the graph takes {shape[0]} image{'s' * (shape[0] > 1)} at a time, not {batch}"
            )


def timings_file(folder: str | None, device: Device | None, version: str) -> Path | None:
    """Kernel timings hold for one GPU and one version of the library; ahead of time there are
    none."""
    if folder is None or device is None:
        return None
    gpu = f"{device.name}-{device.multiprocessors}mp-{round(device.memory_mib / 1024)}gib"
    return Path(folder) / f"timings-{re.sub(r'[^A-Za-z0-9]+', '-', gpu)}-{version}.cache"


def read_timings(config: Any, path: Path) -> None:
    """Have the builder start from the timings of earlier builds, and add to them."""
    known = path.read_bytes() if path.is_file() else b""
    # A damaged file costs the time it would have saved, no more.
    cache = config.create_timing_cache(known) or config.create_timing_cache(b"")
    config.set_timing_cache(cache, False)


def _parser_error(parser: Any) -> str:
    error = parser.get_error(0)
    # The first line repeats the node, the second says why.
    lines = [line for line in str(error.desc()).splitlines() if line.strip()]
    why = short_reason(lines[min(1, len(lines) - 1)]) if lines else "no reason given"
    if not error.node_operator():
        return f"the graph: {why}"
    return f"node {error.node_name() or '?'} ({error.node_operator()}): {why}"


def _reason(log: LibraryLog, since: int) -> str:
    errors = log.errors(since)
    return short_reason(errors[-1]) if errors else ""


def short_reason(message: str) -> str:
    """What TensorRT complains of, without the places in its source."""
    message = " ".join(message.split())
    found = re.search(r"Error Code \d+: [\w ]+\((.+)\)$", message)
    inside = re.sub(r"^\[\w+\.cpp:+\w+: *\w+\] ", "", found[1] if found else message)
    place = re.search(r"\bIn \w+ at \S+(?: \((.+)\))?$", inside)
    if place is None:
        return inside
    return " ".join(part for part in (inside[: place.start()].strip(), place[1]) if part)


def _device(targets: list[str]) -> tuple[Device | None, list[str]]:
    """The GPU that the engine is tied to, if any, and the capabilities it is for."""
    if "current" not in targets:
        return None, sorted(set(targets))
    device = current_device()
    return device, [device.compute_capability]


def _tensor(tensor: Any) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "dtype": _PRECISIONS.get(tensor.dtype.name, tensor.dtype.name.lower()),
        "shape": list(tensor.shape),
    }


def _say(report: IO[str], line: dict[str, Any]) -> None:
    print(json.dumps(line), file=report, flush=True)


def _end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the one that wants the engine dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main() -> None:
    """Build what the request on the command line says."""
    request: dict[str, Any] = json.loads(sys.argv[1])
    _end_with_parent(request["parent"])
    # Ctrl-C reaches the whole foreground group; the parent decides what becomes of the build.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Libraries print to stdout: that is the parent's line.
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        with os.fdopen(request["out"], "wb") as out:
            built = build(request, sys.stdin.buffer.read(), out, report)
    except (EngineError, OSError) as error:
        _say(report, {"refused": str(error)})
    else:
        _say(report, {"built": built})


if __name__ == "__main__":
    main()
