"""Which variant of a bundle an engine is to run, by what is known of each."""

from dataclasses import dataclass, field

from mtc_perception.core.bundle import Bundle, EngineName, Evidence
from mtc_perception.engines.cpu import CpuClass

WORTH_IT = 0.9
"""Share of fp32's time from which on a variant counts as no faster: timings differ by as much."""
TENSORRT_ORDER = ("fp16", "fp32")
"""Precisions that are taken without being asked for. What int8 of TensorRT loses has been measured
on other engines, which compute it otherwise."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Variants of a bundle for one engine."""

    variants: list[str]
    """To be tried in this order."""
    doubtful: frozenset[str] = frozenset()
    """Of these, those that may be slower here than the one behind them: nobody has timed them on
    such a machine."""
    passed_over: dict[str, str] = field(default_factory=dict)
    """Why others are not among them."""


def choose(bundle: Bundle, engine: EngineName, precision: str | None, cpu: CpuClass) -> Choice:
    """The order to try variants in; `precision` None leaves it to the evidence.

    Fastest first, of those that kept their tolerance and that a machine like this one runs well;
    those that are no faster than fp32 come behind it. A bundle without any evidence has its own
    order. Raises BundleError if the engine runs none.
    """
    fitting = bundle.variants_for(engine, precision)
    if precision is not None:
        return Choice(fitting)
    entries = {key: bundle.variant(key) for key in fitting}
    if engine == "tensorrt":
        order = [k for p in TENSORRT_ORDER for k in fitting if entries[k].precision == p]
        return Choice(order or fitting)
    if all(entry.evidence is None for entry in entries.values()):
        return Choice(fitting)

    ranks: dict[str, float] = {}
    doubtful: set[str] = set()
    passed_over: dict[str, str] = {}
    for key, entry in entries.items():
        evidence = entry.evidence
        if evidence is None:
            # fp32, which needs none, or what nobody has looked at.
            ranks[key] = 1.0 if entry.precision == "fp32" else 2.0
        elif not evidence.within_tolerance:
            passed_over[key] = _loss(evidence)
        elif entry.precision == "int8" and cpu.fast_int8 is False:
            passed_over[key] = f"slow on {cpu.name}"
        elif (share := _share(evidence, engine, cpu)) is not None:
            ranks[key] = share if share < WORTH_IT else 1.0 + share
        elif entry.precision == "int8":
            ranks[key] = 0.0
            doubtful.add(key)
        else:
            ranks[key] = 2.0
    order = sorted(ranks, key=ranks.__getitem__)
    return Choice(order, frozenset(doubtful), passed_over)


def _share(evidence: Evidence, engine: EngineName, cpu: CpuClass) -> float | None:
    """Of fp32's time, on such a machine; None if nobody has timed it."""
    for timing in evidence.timings:
        if (timing.engine, timing.machine) == (engine, cpu.name):
            return timing.of_fp32
    return None


def _loss(evidence: Evidence) -> str:
    figure, points = max(evidence.lost_points.items(), key=lambda item: item[1], default=("", 0.0))
    allowed = f"{evidence.tolerance_points:g} are allowed"
    return f"lost {points:.1f} points of {figure}, {allowed}" if figure else "outside its tolerance"
