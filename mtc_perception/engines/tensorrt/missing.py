"""Builds the TensorRT engine of a bundle where the store has none that loads."""

from mtc_perception.core.bundle import Bundle
from mtc_perception.core.engine import Network
from mtc_perception.engines.cpu import cpu_class
from mtc_perception.engines.tensorrt.build import (
    CURRENT,
    BuildSettings,
    Tell,
    build_variant,
    default_flavour,
)
from mtc_perception.engines.tensorrt.cuda import current_device
from mtc_perception.engines.tensorrt.engine import stored_engine
from mtc_perception.engines.tensorrt.library import deserialised
from mtc_perception.engines.tensorrt.store import EngineStore
from mtc_perception.engines.variant_order import variant_order
from mtc_perception.util.errors import EngineError


def build_missing_engine(bundle: Bundle, precision: str | None, tell: Tell) -> str:
    """Build the engine that `bundle` needs on TensorRT; says what was built, "" for nothing.

    `precision` None is the one that `auto` takes.

    Builds once at most, whether or not the new engine then loads. Raises BundleError, and
    EngineError where TensorRT or a GPU is missing or the build fails.
    """
    order = variant_order(bundle, "tensorrt", precision, cpu_class())
    if not order.variants:
        reasons = "; ".join(f"{key}: {why}" for key, why in order.passed_over.items())
        raise EngineError(f"{bundle.path}: no variant for TensorRT kept its tolerance: {reasons}")
    variant = order.variants[0]
    flavour, device, store = default_flavour((CURRENT,)), current_device(), EngineStore()
    try:
        # Sound bytes are not enough: another driver's engine may not load.
        deserialised(*stored_engine(Network.of(bundle, variant), device, store))
    except EngineError:
        settings = BuildSettings(flavour, timings=store.root)
        built, path = build_variant(bundle, variant, settings, store, tell)
        return f"built {path} in {built.about['seconds']:.0f} s"
    return ""
