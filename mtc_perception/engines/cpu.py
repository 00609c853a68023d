"""What this machine's CPU is good for: how many threads, and which arithmetic."""

import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_TOPOLOGY = Path("/sys/devices/system/cpu")


def available_physical_cores() -> int:
    """Physical cores among the CPUs this process may run on.

    Two threads on one core share its vector units: a second one only slows inference down.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set()
    for cpu in os.sched_getaffinity(0):
        topology = _TOPOLOGY / f"cpu{cpu}" / "topology"
        try:
            package = (topology / "physical_package_id").read_text().strip()
            core = (topology / "core_id").read_text().strip()
        except OSError:  # containers may hide the topology
            cores.add(("unknown", str(cpu)))
        else:
            cores.add((package, core))
    return len(cores)


@dataclass(frozen=True, slots=True)
class CpuClass:
    """Processors that run integer arithmetic alike."""

    name: str
    fast_int8: bool | None
    """Whether int8 is faster than float32: with products of four bytes summed up by one
    instruction. Without it it is not; None: this system does not say what its processor has."""


def cpu_class(cpuinfo: Path = CPUINFO) -> CpuClass:
    """That of this machine, by the instructions that Linux lists."""
    features: set[str] = set()
    with suppress(OSError):
        for line in cpuinfo.read_text().splitlines():
            if line.partition(":")[0].strip() in ("flags", "Features"):
                features.update(line.partition(":")[2].split())
    machine = platform.machine().lower().replace("amd64", "x86_64").replace("arm64", "aarch64")
    for architecture, wanted, has in (
        ("x86_64", {"avx512_vnni", "avx_vnni", "amx_int8"}, "VNNI"),
        ("aarch64", {"asimddp"}, "dot products"),
    ):
        if machine == architecture and features:
            fast = bool(features & wanted)
            return CpuClass(f"{machine} {'with' if fast else 'without'} {has}", fast)
    return CpuClass(machine or "unknown", None)


def cpu_model(cpuinfo: Path = CPUINFO) -> str:
    """What the processor calls itself."""
    with suppress(OSError):
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model", "CPU part"):
                return value.strip()
    return platform.processor() or platform.machine()
