"""What this machine can run: the TensorRT libraries that are installed, and its GPU."""

from collections.abc import Mapping
from dataclasses import dataclass

from mtc_perception.engines.tensorrt.cuda import Device, current_device
from mtc_perception.engines.tensorrt.key import EngineKey, Flavour, same_memory
from mtc_perception.engines.tensorrt.library import NAMES, import_library, installed_flavours
from mtc_perception.util.errors import EngineError


@dataclass(frozen=True, slots=True)
class Machine:
    """TensorRT libraries and GPU of a machine."""

    versions: Mapping[Flavour, str]
    """Of the libraries that can be imported."""
    device: Device | None
    """None: no usable GPU."""

    def misfit(self, key: EngineKey) -> str | None:
        """Why an engine of this key cannot run here; None if it can, or if nothing here says so.

        A machine without a GPU builds engines for others: it cannot tell which they fit.
        """
        version = self.versions.get(key.flavour)
        if version not in (None, key.version):
            return f"of {NAMES[key.flavour]} {key.version}, installed is {version}"
        if self.device is None:
            return None
        if key.gpu and (other := _other_gpu(key, self.device)):
            return f"built on {other}"
        if self.device.compute_capability not in key.compute_capability:
            return (
                f"for {', '.join(key.compute_capability)}, this GPU is"
                f" {self.device.compute_capability}"
            )
        return None

    def runs(self, key: EngineKey) -> bool:
        """Whether an engine of this key is known to fit."""
        known = self.device is not None and key.flavour in self.versions
        return known and self.misfit(key) is None


def _other_gpu(key: EngineKey, device: Device) -> str:
    """The GPU that an engine was built on and how this one differs; empty if it is one like it."""
    if key.gpu != device.name:
        return f"{key.gpu}, this is {device.name}"
    if key.multiprocessors != device.multiprocessors:
        return (
            f"{key.gpu} with {key.multiprocessors} multiprocessors, this one has"
            f" {device.multiprocessors}"
        )
    if not same_memory(key.memory_mib, device.memory_mib):
        return f"{key.gpu} with {key.memory_mib} MiB of memory, this one has {device.memory_mib}"
    return ""


def this_machine() -> Machine:
    """The machine that this runs on."""
    versions: dict[Flavour, str] = {}
    for flavour in installed_flavours():
        try:
            versions[flavour] = import_library(flavour).version
        except EngineError:
            continue
    try:
        device = current_device()
    except EngineError:
        device = None
    return Machine(versions, device)
