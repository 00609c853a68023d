"""What makes a built TensorRT engine this one and no other."""

import hashlib
import shlex
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

from mtc_perception.core.bundle import NonEmpty, Precision, Sha256

Flavour = Literal["tensorrt", "tensorrt_rtx"]

FLAVOUR_OPTIONS: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}
"""What `mtc-engine build --flavour` calls them."""
_MEMORY_TOLERANCE = 0.1
"""Of a GPU's memory, drivers and kernels keep more or less for themselves; sizes that are sold
differ by more."""


class Profile(NamedTuple):
    """The shape of the input that an engine is built for, in images and pixels."""

    batch: int
    height: int
    width: int

    def __str__(self) -> str:
        return "x".join(str(size) for size in self)


@dataclass(frozen=True)
class EngineKey:
    """Everything that changes a serialised engine. Two engines with one key are exchangeable."""

    model_sha256: Sha256
    """Of the ONNX file's bytes."""
    precision: Precision
    profile: Profile
    flavour: Flavour
    version: NonEmpty
    """Of the TensorRT library, all of it: `10.13.3.9`."""
    gpu: str
    """Name of the GPU that it was built on; empty for an ahead-of-time build of TensorRT-RTX,
    which fits every GPU of its compute capabilities."""
    multiprocessors: int
    """Of that GPU: those of all Jetson Orin boards have one name. 0 if built ahead of time."""
    memory_mib: int
    """Of that GPU; 0 if built ahead of time."""
    compute_capability: tuple[NonEmpty, ...]
    """Sorted: `("sm89",)`; an ahead-of-time build may have several."""

    def differences(self, wanted: "EngineKey") -> list[str]:
        """What keeps an engine of this key from serving as `wanted`, a field each; empty: fits."""
        ahead = self.flavour == "tensorrt_rtx" and not self.gpu
        fits = {
            "gpu": ahead or self.gpu == wanted.gpu,
            "multiprocessors": ahead or self.multiprocessors == wanted.multiprocessors,
            "memory_mib": ahead or same_memory(self.memory_mib, wanted.memory_mib),
            "compute_capability": set(wanted.compute_capability) <= set(self.compute_capability),
        }
        return [
            f"{name} is {_words(getattr(self, name))}, needed is {_words(getattr(wanted, name))}"
            for name in (field.name for field in fields(self))
            if not fits.get(name, getattr(self, name) == getattr(wanted, name))
        ]

    @property
    def stem(self) -> str:
        """The key as a file name without suffix."""
        digest = hashlib.sha256(repr(self).encode()).hexdigest()
        return (
            f"{self.model_sha256[:12]}-{self.precision}-{self.flavour}-{self.version}"
            f"-{'-'.join(self.compute_capability)}-{digest[:12]}"
        )


def same_memory(one_mib: int, other_mib: int) -> bool:
    """Whether two GPUs may have been sold with the same memory."""
    return abs(one_mib - other_mib) <= _MEMORY_TOLERANCE * max(one_mib, other_mib)


def build_command(key: EngineKey, bundle: str = "BUNDLE") -> str:
    """The command that builds an engine for `key` from the bundle at path `bundle`."""
    target = f" --target {key.compute_capability[0]}" if key.flavour == "tensorrt_rtx" else ""
    options = f"--precision {key.precision} --flavour {FLAVOUR_OPTIONS[key.flavour]}{target}"
    return f"mtc-engine build {shlex.quote(bundle)} {options}"


def _words(value: Any) -> str:
    if isinstance(value, Profile):
        return str(value)
    if isinstance(value, tuple):
        return "/".join(value)
    if isinstance(value, int):
        return str(value)
    # Of a sha256 the beginning says enough.
    return value[:12] if len(value) == 64 else value or "any"
