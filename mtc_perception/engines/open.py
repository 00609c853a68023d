"""From a bundle to an engine that runs it here: the choice, the trial, the load and the test."""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from mtc_perception.core.bundle import Bundle, EngineName, Precision
from mtc_perception.core.engine import Engine, EngineChoice, Network
from mtc_perception.core.images import SourceImage
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.core.self_test import check_self_test, run_self_test, self_test_frame
from mtc_perception.engines.cpu import cpu_class
from mtc_perception.engines.load import AUTO_ORDER, check_offered, load_engine
from mtc_perception.engines.process_trial import TrialMemory, ensure_tried, is_installed
from mtc_perception.engines.variant_order import VariantOrder, variant_order
from mtc_perception.util.deadline import Deadline
from mtc_perception.util.errors import BundleError, EngineError, one_line

FASTER = "faster"
_BACKGROUND_NICENESS = 10
"""Of trials that nobody waits for, so that the cores are the running engine's first."""
_BESIDE = "beside "
_WARM_UP_RUNS = 2
_TIMING_S = 1.5
"""How long two engines are timed for, to see which is the faster one."""


class OpenedEngine(NamedTuple):
    """A tested engine."""

    engine: Engine
    variant: str
    """Of the bundle."""
    why: str
    """A sentence saying what was chosen and why."""
    warm_up_s: float
    """What the slowest inference of its warm-up took."""


def open_engine(
    bundle: Bundle,
    name: EngineChoice = "auto",
    precision: str | None = None,
    threads: int | None = None,
    deadline: Deadline | None = None,
) -> OpenedEngine:
    """Load the bundle's network into an engine, warm it up and test it.

    `auto` takes the first of `AUTO_ORDER` that runs here. `precision` (`fp32`, `fp16`, `int8`)
    defaults to the fastest variant that kept its tolerance (`variant_order`). A variant that fails
    gives way to the engine's next one. Nothing is begun after the `deadline`, and trials are ended;
    what hangs in this process cannot be. Raises EngineError if nothing can run the bundle and
    BundleError if it breaks its contract or lacks what was asked for.
    """
    if name != "auto":
        check_offered(name)
        try:
            return _Opening(bundle, name, threads, deadline).opened(precision, "as asked for", [])
        except EngineError as error:
            raise EngineError(f"{name}: {error}") from error
    rejected: list[str] = []
    for candidate in AUTO_ORDER:
        try:
            opening = _Opening(bundle, candidate, threads, deadline)
            return opening.opened(precision, "chosen automatically", rejected)
        except (EngineError, BundleError) as error:
            rejected.append(f"{candidate}: {error}")
    raise EngineError(f"{bundle.path}: no engine runs it here: {'; '.join(rejected)}")


def try_engine(bundle: Bundle, name: EngineName, precision: str | None, deadline: Deadline) -> None:
    """Make the trials that `open_engine` would begin with, so that it finds their outcome.

    They get out of the way of all else that runs.
    """
    with suppress(BundleError):
        for variant in variant_order(bundle, name, precision, cpu_class()).variants:
            with suppress(EngineError):
                ensure_tried(Network.of(bundle, variant), name, deadline, _BACKGROUND_NICENESS)
                return


@dataclass(frozen=True, slots=True)
class _Tested:
    """An engine that has passed with a variant."""

    engine: Engine
    variant: str
    remark: str
    """What there is to know beside it, or nothing."""
    warm_up_s: float


class _Opening:
    """One engine, and what becomes of the variants that it is tried with."""

    def __init__(
        self, bundle: Bundle, name: EngineName, threads: int | None, deadline: Deadline | None
    ) -> None:
        self._bundle = bundle
        self._name = name
        self._threads = threads
        self._deadline = deadline
        self._passed_over: dict[str, list[str]] = {}
        """Variants by the reason."""

    def opened(self, precision: str | None, how: str, rejected: Sequence[str]) -> OpenedEngine:
        """The first variant that passes; `rejected` says why other engines were not taken.

        Raises EngineError if none passes, BundleError if there is none to try.
        """
        order = variant_order(self._bundle, self._name, precision, cpu_class())
        for variant, reason in order.passed_over.items():
            self._pass_over(variant, reason)
        passing = self._passing(
            [variant for variant in order.variants if not self._known_slower(variant, order)]
        )
        tested = next(passing, None)
        if tested is None:
            one_for_all = len(self._passed_over) == 1  # it is the engine's, not a variant's
            raise EngineError("; ".join(self._passed_over if one_for_all else self._reasons()))
        if (
            tested.variant in order.doubtful
            and self._race(tested.variant, order) != FASTER
            and (other := next(passing, None))
        ):
            tested = self._faster(tested, other)
        engine, variant = tested.engine, tested.variant
        runs = f" as {engine.precision}" if engine.precision != self._precision(variant) else ""
        remark = f" ({tested.remark})" if tested.remark else ""
        others = [*rejected, *self._reasons()]
        return OpenedEngine(
            engine,
            variant,
            f"{engine.name} ({engine.device}) running variant {variant}{runs}{remark}, {how}"
            + (f"; passed over {'; '.join(others)}" if others else ""),
            tested.warm_up_s,
        )

    def _passing(self, variants: Sequence[str]) -> Iterator[_Tested]:
        for variant in variants:
            try:
                tested = _tested(self._bundle, variant, self._name, self._threads, self._deadline)
            except EngineError as error:
                self._pass_over(variant, str(error))
            else:
                yield tested

    def _faster(self, doubtful: _Tested, other: _Tested) -> _Tested:
        """The faster one here, which is remembered; the other is closed."""
        try:
            doubtful_ms, other_ms = _times_ms(doubtful.engine, other.engine)
        except EngineError as error:
            doubtful.engine.close()
            self._pass_over(doubtful.variant, str(error))
            return other
        wins = doubtful_ms <= other_ms
        taken, left = (doubtful, other) if wins else (other, doubtful)
        left.engine.close()
        slow, fast = max(doubtful_ms, other_ms), min(doubtful_ms, other_ms)
        reason = f"{slow:.1f} ms here, {taken.variant} {fast:.1f} ms"
        self._pass_over(left.variant, reason)
        self._memory(doubtful.variant).write(_BESIDE + other.variant, FASTER if wins else reason)
        return taken

    def _known_slower(self, variant: str, order: VariantOrder) -> bool:
        """Whether an earlier start has seen so, so that all later ones decide alike."""
        race = self._race(variant, order)
        if race is None or race == FASTER:
            return False
        self._pass_over(variant, race)
        return True

    def _race(self, variant: str, order: VariantOrder) -> str | None:
        """How a doubtful variant did beside the next one; None if nobody has timed them."""
        behind = order.variants[order.variants.index(variant) + 1 :]
        if variant not in order.doubtful or not behind or not is_installed(self._name):
            return None
        return self._memory(variant).read(_BESIDE + behind[0])

    def _memory(self, variant: str) -> TrialMemory:
        return TrialMemory(Network.of(self._bundle, variant), self._name)

    def _pass_over(self, variant: str, reason: str) -> None:
        self._passed_over.setdefault(reason, []).append(variant)

    def _reasons(self) -> list[str]:
        return [
            f"{'variant' if len(variants) == 1 else 'variants'} {', '.join(variants)}: {reason}"
            for reason, variants in self._passed_over.items()
        ]

    def _precision(self, variant: str) -> Precision:
        return self._bundle.variant(variant).precision


def _times_ms(*engines: Engine) -> list[float]:
    """Median time of each engine's inference, all in turn."""
    times: list[list[float]] = [[] for _ in engines]
    end = time.perf_counter() + _TIMING_S
    while not times[0] or time.perf_counter() < end:
        for own, engine in zip(times, engines, strict=True):
            begin = time.perf_counter()
            engine.start()
            engine.wait()
            own.append((time.perf_counter() - begin) * 1e3)
    return [statistics.median(own) for own in times]


def _tested(
    bundle: Bundle, variant: str, name: EngineName, threads: int | None, deadline: Deadline | None
) -> _Tested:
    """An engine that has run the variant and says what its bundle does.

    Raises EngineError if it does not, whatever the reason: another variant or engine may.
    """
    if deadline is not None:
        if not deadline.remaining_s():
            raise EngineError("there was no time left for it")
        # Half of it: if this one hangs, another one may be what runs.
        deadline = Deadline(deadline.remaining_s() / 2, within=deadline)
    engine: Engine | None = None
    try:
        network = Network.of(bundle, variant)
        # TensorRT's engines are built in processes of their own.
        remark = "" if name == "tensorrt" else ensure_tried(network, name, deadline)
        engine = load_engine(network, name, threads)
        outputs = run_self_test(engine)
        warm_up_s = 0.0
        frame = SourceImage(self_test_frame(network.height, network.width), "rgb")
        letterbox = Letterbox.fit(frame.height, frame.width, frame.height, frame.width)
        for _ in range(_WARM_UP_RUNS):
            # The way that a camera's images take must lead to the same.
            engine.prepare(frame, letterbox)
            begin_s = time.perf_counter()
            engine.start()
            outputs = engine.wait()
            warm_up_s = max(warm_up_s, time.perf_counter() - begin_s)
        golden = next(test for key, test in bundle.manifest.self_test.items() if key == variant)
        size = network.height, network.width
        check_self_test(outputs, golden, len(bundle.manifest.classes), size)
    except BaseException as error:
        if engine is not None:
            with suppress(Exception):  # what failed may fail again
                engine.close()
        if not isinstance(error, Exception):
            raise
        raise EngineError(one_line(error)) from error
    return _Tested(engine, variant, remark, warm_up_s)
