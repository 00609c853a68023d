"""How many threads inference deserves on this machine's CPU."""

import os
from pathlib import Path

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
