"""Which variant of a bundle an engine is to run, by what is known of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mtc_perception.core.bundle import Assessment, Bundle, EngineName, Variant
from mtc_perception.engines.cpu import CpuClass

WORTH_IT = 0.9
"""Share of fp32's time from which on a variant counts as no faster: timings differ by as much."""
TENSORRT_ORDER = ("fp16", "fp32")
"""Precisions that are taken without being asked for. What int8 of TensorRT loses has been measured
on other engines, which compute it otherwise."""


@dataclass(frozen=True, slots=True)
class VariantOrder:
    """Variants of a bundle for one engine."""

    variants: list[str]
    """To be tried in this order."""
    doubtful: frozenset[str] = frozenset()
    """Of these, those that may be slower here than the one behind them: nobody has timed them on
    such a machine."""
    passed_over: dict[str, str] = field(default_factory=dict)
    """Why others are not among them."""


def variant_order(
    bundle: Bundle, engine: EngineName, precision: str | None, cpu: CpuClass
) -> VariantOrder:
    """The order to try variants in; `precision` None leaves it to the assessment.

    Fastest first of those that kept their tolerance and that a machine like this one runs well;
    those that are no faster than fp32 come behind it. A bundle without any assessment has its own
    order, but for TensorRT. Raises BundleError if the engine runs none.
    """
    fitting = bundle.variants_for(engine, precision)
    if precision is not None:
        return VariantOrder(fitting)
    entries = {key: bundle.variant(key) for key in fitting}
    if engine == "tensorrt":
        return _for_tensorrt(entries)
    if all(entry.assessment is None for entry in entries.values()):
        return VariantOrder(fitting)

    ranks: dict[str, float] = {}
    doubtful: set[str] = set()
    passed_over: dict[str, str] = {}
    for key, entry in entries.items():
        assessment = entry.assessment
        if assessment is None:
            # fp32, which needs none, or what nobody has looked at.
            ranks[key] = 1.0 if entry.precision == "fp32" else 2.0
        elif not assessment.within_tolerance:
            passed_over[key] = _loss(assessment)
        elif (share := _share(assessment, engine, cpu)) is not None:
            ranks[key] = share if share < WORTH_IT else 1.0 + share
        elif entry.precision == "int8" and cpu.fast_int8 is False:
            passed_over[key] = f"slow on {cpu.name}"
        elif entry.precision == "int8":
            ranks[key] = 0.0
            doubtful.add(key)
        else:
            ranks[key] = 2.0
    order = sorted(ranks, key=ranks.__getitem__)
    return VariantOrder(order, frozenset(doubtful), passed_over)


def _for_tensorrt(entries: Mapping[str, Variant]) -> VariantOrder:
    passed_over = {
        key: _loss(entry.assessment)
        for key, entry in entries.items()
        if entry.assessment and not entry.assessment.within_tolerance
    }
    order = [
        key
        for precision in TENSORRT_ORDER
        for key, entry in entries.items()
        if entry.precision == precision and key not in passed_over
    ]
    others = [key for key in entries if key not in passed_over]
    return VariantOrder(order or others, passed_over=passed_over)


def _share(assessment: Assessment, engine: EngineName, cpu: CpuClass) -> float | None:
    """Of fp32's time, on such a machine; None if nobody has timed it."""
    for timing in assessment.timings:
        if (timing.engine, timing.machine) == (engine, cpu.name):
            return timing.of_fp32
    return None


def _loss(assessment: Assessment) -> str:
    figure, points = max(
        assessment.lost_points.items(), key=lambda item: item[1], default=("", 0.0)
    )
    allowed = f"{assessment.tolerance_points:g} are allowed"
    return f"lost {points:.1f} points of {figure}, {allowed}" if figure else "outside its tolerance"
