"""What /diagnostics says: one status for the engine, one for each camera."""

from collections.abc import Iterable, Mapping

from diagnostic_msgs.msg import DiagnosticStatus

from mtc_perception.core.bundle import Limits
from mtc_perception.core.tasks import THRESHOLDS, Task
from mtc_perception.node.camera import Camera, InputState
from mtc_perception.node.messages import status_message
from mtc_perception.runtime.frames import Clock, Counters
from mtc_perception.runtime.host import EngineHost

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
BLIND = 0.99
"""From this threshold on hardly anything is found."""


def blinding(limits: Limits, tasks: Iterable[Task]) -> str:
    """A warning of settings that leave nothing of these tasks to see; empty if there are none."""
    found = {"detection": "object", "drivable": "drivable area", "lane": "lane paint"}
    return "; ".join(
        f"{name} is {value:g}: hardly any {found[task]} can be found"
        for task, (name, value) in zip(tasks, _thresholds(limits, tasks).items(), strict=True)
        if value >= BLIND
    )


def unconfigured_status(node: str, state: str, failure: str, warning: str) -> DiagnosticStatus:
    """There is no engine; `failure` is why, if something failed."""
    values = {"state": state} | ({"failure": failure} if failure else {})
    level = ERROR if failure else WARN if warning else OK
    message = failure or warning or state
    return status_message(f"{node}: engine", level, message, values, "")


def engine_status(
    node: str,
    state: str,
    host: EngineHost,
    late: str,
    limits: Limits,
    max_frame_age_ms: float,
    swap: str,
    warning: str,
) -> DiagnosticStatus:
    """Which engine runs which network, whether it answers and is the one that was chosen.

    `late` is what takes too long, `swap` what became of the last one, and `warning` what else the
    user should know.
    """
    perceiver = host.perceiver
    manifest, engine = perceiver.bundle.manifest, perceiver.engine
    values: dict[str, object] = {
        "state": state,
        "engine": engine.name,
        "device": engine.device,
        "precision": engine.precision,
        "why": perceiver.why,
        "late": late or "no",
        "degraded": host.degraded or "no",
        "failures": host.failures,
        "swap": swap or "none",
        "bundle": perceiver.bundle.path,
        "network": f"{manifest.name} {manifest.version}",
        "tasks": ", ".join(manifest.tasks),
        "lineage": " -> ".join(f"{step.step} ({step.detail})" for step in manifest.lineage),
        **_thresholds(limits, manifest.tasks),
        "max_detections": limits.max_detections,
        "max_frame_age_ms": max_frame_age_ms,
    }
    warnings = [warning] if warning else []
    if host.degraded:
        warnings.insert(0, f"degraded: {host.degraded}")
    if late:
        level, message = ERROR, "; ".join([late, *warnings])
    elif warnings:
        level, message = WARN, "; ".join(warnings)
    else:
        level, message = OK, f"{state}, {engine.name} {engine.precision}"
    return status_message(f"{node}: engine", level, message, values, engine.device)


def camera_status(node: str, camera: Camera, counters: Counters, active: bool) -> DiagnosticStatus:
    """How one camera's input and latency are."""
    monitor = camera.monitor
    rate_hz = monitor.rate_hz()
    publishers, silence = camera.publishers()
    state, reason = monitor.state(silence)
    values: dict[str, object] = {
        "topic": camera.topic,
        "transport": "compressed" if camera.compressed else "raw",
        "publishers": publishers,
        "input": state.value if active else "inactive",
        "reason": reason if active else "",
        "rate_hz": rate_hz,
        "resolution": monitor.resolution,
        "frames_in": counters.received,
        "frames_processed": counters.processed,
        "frames_dropped": counters.dropped,
        "frames_stale": counters.stale,
        "frames_malformed": counters.malformed,
        "frames_waiting": counters.waiting,
        "clock": monitor.clock.value,
        "clock_offset_ms": monitor.offset_ms,
        "stamps_back": monitor.stamps_back,
        **_latencies(camera.window.summary()),
    }
    if not active:
        level, message = OK, "inactive"
    elif state is not InputState.OK:
        level = WARN if state is InputState.WAITING and not monitor.qos_problem else ERROR
        message = f"{state.value}: {reason}"
    elif monitor.clock is not Clock.OK:
        level, message = WARN, monitor.clock.value
    else:
        level, message = OK, f"{rate_hz:.1f} Hz"
    return status_message(f"{node}: {camera.name}", level, message, values, camera.topic)


def _thresholds(limits: Limits, tasks: Iterable[Task]) -> dict[str, float]:
    """By name of the node's parameter."""
    values = limits.thresholds.model_dump()
    return {f"{THRESHOLDS[task]}_threshold": values[THRESHOLDS[task]] for task in tasks}


def _latencies(summary: Mapping[str, Mapping[str, float]]) -> dict[str, object]:
    return {
        f"{stage}_{quantile}_ms": values[quantile]
        for stage, values in summary.items()
        for quantile in ("p50", "p95", "p99", "max")
        if quantile in values
    }
