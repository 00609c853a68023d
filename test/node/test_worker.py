"""The inference worker without ROS: real engines on the toy bundle, and what is not their fault."""

import math
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtc_perception.core.bundle import (
    Bundle,
    Limits,
    Thresholds,
    Variant,
    read_bundle,
    sha256_hex,
    write_bundle,
)
from mtc_perception.core.engine import Engine, Network, Outputs
from mtc_perception.core.images import SourceImage
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.core.perception import Perception
from mtc_perception.engines import open as opening
from mtc_perception.engines import process_trial
from mtc_perception.engines.load import load_engine
from mtc_perception.engines.open import open_engine
from mtc_perception.engines.process_trial import TrialMemory
from mtc_perception.runtime import host as runtime_host
from mtc_perception.runtime import perceiver as perceiver_module
from mtc_perception.runtime import worker as worker_module
from mtc_perception.runtime.frames import Frame, FrameSlots, FrameTimes, Outcome
from mtc_perception.runtime.host import EngineHost
from mtc_perception.runtime.perceiver import Selection, open_perceiver
from mtc_perception.runtime.worker import LATE_S, InferenceWorker
from mtc_perception.util.errors import EngineError, ImageError
from support.accounts import check_accounts
from support.toy_bundle import toy_model, write_toy_bundle

MS = 1_000_000


class Port:
    """A camera whose images are made by `make`; keeps what the worker says of them."""

    def __init__(self, make: Callable[[], SourceImage]) -> None:
        self.make = make
        self.rejected: list[tuple[Outcome, str]] = []
        self.perceptions: list[Perception] = []
        self.times: list[FrameTimes] = []
        self.reported = threading.Event()

    def now_ns(self) -> int:
        return time.time_ns()

    def read(self, frame: Frame) -> SourceImage:
        return self.make()

    def reject(self, frame: Frame, outcome: Outcome, reason: str) -> None:
        self.rejected.append((outcome, reason))
        self.reported.set()

    def publish(self, frame: Frame, perception: Perception) -> None:
        self.perceptions.append(perception)

    def report(
        self, frame: Frame, image: SourceImage, perception: Perception, times: FrameTimes
    ) -> None:
        self.times.append(times)
        self.reported.set()


class Bench:
    """A worker on one port, fed by hand."""

    def __init__(
        self, bundle: Bundle, make: Callable[[], SourceImage], engine: str = "openvino"
    ) -> None:
        self.port = Port(make)
        self.slots = FrameSlots(1)
        self.slots.open()
        self.host = host_on(bundle, engine)
        self.degraded: list[str] = []
        self.replaced = threading.Event()
        self.failures: list[str] = []
        self.failed = threading.Event()
        self.late = threading.Event()
        self.worker = InferenceWorker(
            self.slots,
            self.host,
            [self.port],
            bundle.manifest.limits,
            0.0,
            self._degrade,
            self._fail,
            self.late.set,
        )

    def _degrade(self, words: str) -> None:
        self.degraded.append(words)
        self.replaced.set()

    def _fail(self, reason: str) -> None:
        self.failures.append(reason)
        self.failed.set()

    def send(self, waited_ms: int = 0) -> None:
        now_ns = time.time_ns() - waited_ms * MS
        arrived_ns = time.monotonic_ns() - waited_ms * MS
        self.slots.put(Frame(0, None, now_ns, now_ns, arrived_ns))

    def stop(self) -> None:
        assert self.worker.stop()
        self.host.close()
        check_accounts(self.slots.counters()[0])


def host_on(bundle: Bundle, engine: str, precision: str | None = None) -> EngineHost:
    selection = Selection(bundle.path, engine, precision, threads=1, fallback=True)  # type: ignore[arg-type]
    return EngineHost(selection, open_perceiver(selection))


class Spoiled:
    """A real engine whose outputs are changed, as a device that fails without saying so would."""

    def __init__(self, engine: Engine, spoil: Callable[[Outputs], None]) -> None:
        self._engine, self._spoil = engine, spoil

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def wait(self) -> Outputs:
        outputs = self._engine.wait()
        self._spoil(outputs)
        return outputs


class Hanging:
    """A real engine that hangs in an image, until it is let go."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.entered, self.free, self.closed = (threading.Event() for _ in range(3))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def wait(self) -> Outputs:
        self.entered.set()
        assert self.free.wait(60)
        return self._engine.wait()

    def close(self) -> None:
        self._engine.close()
        self.closed.set()


class Slow:
    """A real engine that takes half a second for every image."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def wait(self) -> Outputs:
        time.sleep(0.5)
        return self._engine.wait()


def grey() -> SourceImage:
    return SourceImage(np.full((96, 160, 3), 128, np.uint8), "rgb")


def no_memory() -> SourceImage:
    raise MemoryError("an image too large")


def a_mistake() -> SourceImage:
    raise LookupError("of ours")


def two_channels() -> SourceImage:
    return SourceImage(np.zeros((40, 40, 2), np.uint8), "bgr")


@pytest.fixture
def toy(toy_bundle: Path) -> Bundle:
    return read_bundle(toy_bundle)


@pytest.mark.fault(
    area="memory",
    row="there is no memory for an image",
    answer="It is malformed and skipped; no engine is blamed, and the next image is answered.",
    diagnostics="The camera is ERROR with the reason; frames_malformed counts.",
)
def test_an_image_that_memory_does_not_suffice_for_is_malformed(toy: Bundle) -> None:
    bench = Bench(toy, no_memory)
    bench.send()
    assert bench.port.reported.wait(20)
    reason = "the image needs more memory than there is"
    assert bench.port.rejected == [(Outcome.MALFORMED, reason)]
    bench.port.reported.clear()
    bench.port.make = grey
    bench.send()
    assert bench.port.reported.wait(20)
    bench.stop()
    assert bench.host.degraded == ""
    assert bench.slots.counters()[0].malformed == 1


def test_what_is_not_the_engines_fault_does_not_replace_it(toy: Bundle) -> None:
    bench = Bench(toy, a_mistake)
    bench.send()
    assert bench.failed.wait(20)
    bench.stop()
    assert bench.failures == ["LookupError: of ours"]
    assert (bench.degraded, bench.host.degraded) == ([], "")
    assert bench.slots.counters()[0].dropped == 1


@pytest.mark.fault(
    area="engine",
    row="an engine raises something that is no error of engines",
    answer="The next CPU engine takes over.",
    diagnostics="The engine is WARN: degraded, with the reason.",
)
def test_whatever_an_engine_raises_it_is_replaced(toy: Bundle) -> None:
    bench = Bench(toy, grey, "onnxruntime")
    bench.send()
    assert bench.port.reported.wait(20)
    bench.port.reported.clear()
    # Its thread ends underneath, as at the end of the interpreter.
    bench.host.perceiver.engine._worker.shutdown()  # type: ignore[attr-defined]
    bench.send()
    assert bench.replaced.wait(20)
    bench.send()
    assert bench.port.reported.wait(20)
    assert bench.host.perceiver.engine.name == "openvino"
    bench.stop()
    (said,) = bench.degraded
    assert said.startswith("onnxruntime failed: RuntimeError: cannot schedule new futures after")
    assert said.endswith("; running on openvino")
    assert bench.failures == []
    counters = bench.slots.counters()[0]
    assert (counters.processed, counters.dropped) == (2, 1)


def unknown_label(outputs: Outputs) -> None:
    outputs.labels[0, 1] = 99


def negative_label(outputs: Outputs) -> None:
    outputs.labels[0, 0] = -1


def leading_nan(outputs: Outputs) -> None:
    outputs.scores[0, 0] = math.nan


def nan_scores(outputs: Outputs) -> None:
    outputs.scores[:] = math.nan


def endless_score(outputs: Outputs) -> None:
    outputs.scores[0, 0] = math.inf


def rising_scores(outputs: Outputs) -> None:
    outputs.scores[:] = outputs.scores[:, ::-1].copy()


def large_score(outputs: Outputs) -> None:
    outputs.scores[0, 0] = 7.0


def negative_score(outputs: Outputs) -> None:
    outputs.scores[0, -1] = -0.1


def swapped_corners(outputs: Outputs) -> None:
    outputs.boxes[:] = outputs.boxes[..., [2, 3, 0, 1]]


def wrong_mask(outputs: Outputs) -> None:
    object.__setattr__(outputs, "lane", outputs.lane[:, :-1])


def float_mask(outputs: Outputs) -> None:
    object.__setattr__(outputs, "drivable", outputs.drivable / 255)


def endless_box(outputs: Outputs) -> None:
    outputs.boxes[0, 0, 2] = math.inf


@pytest.mark.fault(
    area="engine",
    row="an engine answers what makes no sense: NaN, scores out of order, labels it does not have",
    answer="Nothing of it is published; the next CPU engine takes over.",
    diagnostics="The engine is WARN: degraded, with what made no sense.",
)
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (unknown_label, "labels are not all within the 2 classes"),
        (negative_label, "labels are not all within the 2 classes"),
        (leading_nan, "scores are not numbers within 0..1 in descending order"),
        (nan_scores, "scores are not numbers within 0..1 in descending order"),
        (endless_score, "scores are not numbers within 0..1 in descending order"),
        (rising_scores, "scores are not numbers within 0..1 in descending order"),
        (large_score, "scores are not numbers within 0..1 in descending order"),
        (negative_score, "scores are not numbers within 0..1 in descending order"),
        (endless_box, "boxes are not all finite numbers"),
        (swapped_corners, "boxes have their corners in the wrong order"),
        (wrong_mask, "masks are not bytes of 160x96 pixels"),
        (float_mask, "masks are not bytes of 160x96 pixels"),
    ],
)
def test_an_engine_whose_outputs_make_no_sense_is_replaced(
    toy: Bundle, spoil: Callable[[Outputs], None], words: str
) -> None:
    bench = Bench(toy, grey, "onnxruntime")
    bench.host.perceiver.engine = Spoiled(bench.host.perceiver.engine, spoil)
    bench.send()
    assert bench.replaced.wait(20)
    bench.send()
    assert bench.port.reported.wait(20)
    bench.stop()
    assert bench.degraded == [f"onnxruntime failed: {words}; running on openvino"]
    assert (bench.failures, bench.port.rejected) == ([], [])
    counters = bench.slots.counters()[0]
    assert (counters.processed, counters.dropped) == (1, 1)


@pytest.mark.fault(
    area="engine",
    row="an engine hangs",
    answer="It is given up after 3 s and never touched again; the next CPU engine takes over.",
    diagnostics="Within 1 s engine and cameras are ERROR, then degraded; failures counts.",
)
def test_an_engine_that_hangs_is_replaced_and_may_come_back(toy: Bundle) -> None:
    bench = Bench(toy, grey, "onnxruntime")
    engine = Hanging(bench.host.perceiver.engine)
    bench.host.perceiver.engine = engine
    began_s = time.monotonic()
    bench.send()
    assert bench.late.wait(20)
    assert time.monotonic() - began_s >= LATE_S
    assert re.fullmatch(r"onnxruntime has not answered for \d\.\d s", bench.worker.late())
    assert check_accounts(bench.slots.counters()[0]).waiting == 1
    assert bench.replaced.wait(20)
    assert bench.degraded == ["onnxruntime failed: no answer in 3 s; running on openvino"]
    assert bench.host.failures == 1
    bench.send()
    assert bench.port.reported.wait(20)
    assert bench.worker.late() == ""
    assert not engine.closed.is_set()
    engine.free.set()  # its thread frees it, and is not heard of otherwise
    assert engine.closed.wait(20)
    bench.send()
    bench.stop()
    assert bench.failures == []
    counters = bench.slots.counters()[0]
    assert counters.dropped + counters.processed == 3
    assert counters.processed == len(bench.port.perceptions)


@pytest.mark.fault(
    area="engine",
    row="a network is slow, and the machine busy",
    answer="An engine may take 20 times as long as the slowest inference of its warm-up.",
    diagnostics="Engine and camera are ERROR while an image takes longer than a second.",
)
def test_a_slow_engine_does_not_hang(toy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "HANG_S", 0.2)
    with monkeypatch.context() as patch:
        patch.setattr(opening, "load_engine", lambda *how: Slow(load_engine(*how)))
        bench = Bench(toy, grey)
    bench.send()
    assert bench.port.reported.wait(20)
    bench.stop()
    assert (bench.degraded, bench.failures) == ([], [])
    assert bench.slots.counters()[0].processed == 1


def test_a_slow_engine_that_hangs_is_given_up_later(
    toy: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "HANG_S", 0.2)
    bench = Bench(toy, grey, "onnxruntime")
    bench.host.perceiver.engine = engine = Hanging(bench.host.perceiver.engine)
    bench.host.perceiver.warm_up_s = 0.05
    began_s = time.monotonic()
    bench.send()
    assert bench.replaced.wait(20)
    assert time.monotonic() - began_s > 0.9
    bench.stop()
    assert bench.degraded == ["onnxruntime failed: no answer in 1 s; running on openvino"]
    engine.free.set()
    assert engine.closed.wait(20)


@pytest.mark.fault(
    area="camera",
    row="to scale an image, or to decode what the network says of it, takes seconds",
    answer="Images are dropped until it is done; no engine is blamed.",
    diagnostics="Engine and camera are ERROR: an image has been under way for so long.",
)
@pytest.mark.parametrize("part", [(Letterbox, "write"), (perceiver_module, "decode_mask")])
def test_an_image_that_takes_long_outside_of_the_engine(
    toy: Bundle, monkeypatch: pytest.MonkeyPatch, part: tuple[Any, str]
) -> None:
    monkeypatch.setattr(worker_module, "HANG_S", 1.0)
    bench = Bench(toy, grey)
    free, whole = threading.Event(), getattr(*part)

    def stuck(*arguments: Any) -> Any:
        assert free.wait(60)
        return whole(*arguments)

    monkeypatch.setattr(*part, stuck)
    bench.send()
    assert bench.late.wait(20)
    assert not bench.replaced.wait(1.0)
    assert re.fullmatch(
        r"an image has been under way for \d\.\d s, outside of the engine", bench.worker.late()
    )
    free.set()
    assert bench.port.reported.wait(20)
    bench.stop()
    assert (bench.degraded, bench.failures, bench.host.failures) == ([], [], 0)
    assert bench.slots.counters()[0].processed == 1


def test_an_engine_that_hangs_does_not_keep_the_worker_from_stopping(toy: Bundle) -> None:
    bench = Bench(toy, grey, "onnxruntime")
    engine = Hanging(bench.host.perceiver.engine)
    bench.host.perceiver.engine = engine
    bench.send()
    assert engine.entered.wait(20)
    began_s = time.monotonic()
    assert not bench.worker.stop()
    bench.host.close()
    assert time.monotonic() - began_s < 2.0
    assert not engine.closed.is_set()
    assert check_accounts(bench.slots.counters()[0]).dropped == 1
    engine.free.set()
    assert engine.closed.wait(20)
    assert check_accounts(bench.slots.counters()[0]).dropped == 1
    assert (bench.failures, bench.port.perceptions) == ([], [])


@pytest.mark.fault(
    area="engine",
    row="the engine that is to take over does not load, but hangs",
    answer="It is given up at its deadline; without another engine the node goes to unconfigured.",
    diagnostics="The engine is ERROR meanwhile, then with the failure.",
)
def test_a_replacement_that_does_not_load_in_time_is_given_up(
    toy: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    late: list[Hanging] = []

    def hang(bundle: Bundle, name: Any, *_: object) -> Any:
        free.wait(60)
        opened = open_engine(bundle, name)
        late.append(Hanging(opened.engine))
        return opened._replace(engine=late[0])

    monkeypatch.setattr(runtime_host, "open_engine", hang)
    monkeypatch.setattr(runtime_host, "LOAD_S", 1.5)
    bench = Bench(toy, grey, "onnxruntime")
    bench.host.perceiver.engine.close()
    bench.send()
    assert bench.late.wait(20)
    assert "; nothing has taken over for 0." in bench.worker.late()
    assert bench.failed.wait(20)
    bench.stop()
    (failure,) = bench.failures
    assert "no CPU engine is left to fall back to; not loaded within 1.5 s: given up" in failure
    free.set()
    while not late:
        time.sleep(0.01)
    assert late[0].closed.wait(20)  # what nobody waits for any more does not stay


def started_trials(monkeypatch: pytest.MonkeyPatch, instead: list[str] | None = None) -> list[Any]:
    """The processes of trials from now on, or of the command that is started `instead`."""
    start, started = process_trial.subprocess.Popen, []

    def note(command: list[str], **named: Any) -> Any:
        started.append(start(instead or command, **named))
        return started[-1]

    monkeypatch.setattr(process_trial.subprocess, "Popen", note)
    return started


def test_what_is_to_take_over_was_tried_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = read_bundle(write_toy_bundle(tmp_path / "toy.mtc"))
    host = host_on(bundle, "onnxruntime")
    tried = started_trials(monkeypatch)
    niceness: set[int] = set()
    host.try_fallback()
    memory = TrialMemory(Network.of(bundle, "fp32"), "openvino")
    end_s = time.monotonic() + 30
    while memory.read("outcome") is None:
        assert time.monotonic() < end_s
        time.sleep(0.01)
        with suppress(IndexError, ProcessLookupError):
            niceness.add(os.getpriority(os.PRIO_PROCESS, tried[0].pid))
    # The engine at work comes first.
    assert max(niceness) == min(os.getpriority(os.PRIO_PROCESS, 0) + 10, 19)
    monkeypatch.setattr(process_trial.subprocess, "Popen", pytest.fail)
    assert host.replace(EngineError("it broke")).endswith("; running on openvino")
    host.close()


def no_bundle(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def another_bundle(path: Path) -> None:
    write_toy_bundle(path, height=64, width=128)


@pytest.mark.parametrize("change", [another_bundle, no_bundle])
@pytest.mark.parametrize("name", ["toy.mtc", "toy.zip"])
def test_what_takes_over_does_not_need_the_bundle_on_disk(
    tmp_path: Path, name: str, change: Callable[[Path], None]
) -> None:
    bundle = read_bundle(write_toy_bundle(tmp_path / name))
    host = host_on(bundle, "onnxruntime")
    expected = host.perceiver.perceive(grey())
    change(bundle.path)
    assert host.replace(EngineError("it broke")).endswith("it broke; running on openvino")
    found = host.perceiver.perceive(grey())
    np.testing.assert_allclose(found.boxes, expected.boxes, rtol=1e-5)
    np.testing.assert_array_equal(found.drivable, expected.drivable)
    host.close()


def test_trials_end_with_their_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    host = host_on(read_bundle(write_toy_bundle(tmp_path / "toy.mtc")), "onnxruntime")
    tried = started_trials(monkeypatch, [sys.executable, "-c", "import time; time.sleep(60)"])
    host.try_fallback()
    while not tried:
        time.sleep(0.01)
    host.close()
    assert tried[0].wait(10) == -signal.SIGKILL


class Stuck:
    """An engine that neither works nor closes."""

    name = "stuck"

    def __init__(self) -> None:
        self.free = threading.Event()

    def close(self) -> None:
        assert self.free.wait(60)


@pytest.mark.fault(
    area="engine",
    row="an engine hangs while it is closed",
    answer="Nobody waits for it longer than 0.1 s.",
    diagnostics="Nothing: it is no longer needed.",
)
def test_an_engine_that_does_not_close_is_left_behind(toy: Bundle) -> None:
    host = host_on(toy, "onnxruntime")
    host.perceiver.engine, stuck = Stuck(), host.perceiver.engine  # type: ignore[assignment]
    began_s = time.monotonic()
    host.close()
    assert 0.1 <= time.monotonic() - began_s < 0.5
    host.perceiver.engine.free.set()  # type: ignore[attr-defined]
    stuck.close()


@pytest.mark.fault(
    area="DDS",
    row="publishing an answer hangs",
    answer="Images are dropped; deactivate and signals do not wait for it.",
    diagnostics="Engine and camera are ERROR: an image has been under way for so long.",
)
def test_an_answer_that_cannot_be_sent(toy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(toy, grey)
    free, done = threading.Event(), threading.Event()

    def publish(*_: object) -> None:
        free.wait(60)
        done.set()

    monkeypatch.setattr(bench.port, "publish", publish)
    bench.send()
    assert bench.late.wait(20)
    assert bench.worker.late().startswith("an image has been under way for 0.")
    bench.send()
    assert not bench.worker.stop()
    assert check_accounts(bench.slots.counters()[0]).dropped == 2
    bench.host.close()
    free.set()
    assert done.wait(20)
    assert check_accounts(bench.slots.counters()[0]).dropped == 2


def test_limits_that_change_while_an_image_is_perceived_are_for_the_next(toy: Bundle) -> None:
    bench = Bench(toy, grey)
    low, high = (Thresholds(score=v, drivable=v, lane=v) for v in (0.0, 1.0))
    bench.worker.limits = Limits(low, 5)

    def change(_: Outputs) -> None:
        bench.worker.limits = Limits(high, 5)

    bench.host.perceiver.engine = Spoiled(bench.host.perceiver.engine, change)
    for _ in range(2):
        bench.send()
        assert bench.port.reported.wait(20)
        bench.port.reported.clear()
    bench.stop()
    before, after = bench.port.perceptions
    assert len(before.boxes) == 5
    assert before.drivable.min() == before.lane.min() == 255
    assert len(after.boxes) == 0
    assert after.drivable.max() == after.lane.max() == 0


@pytest.mark.fault(
    area="camera",
    row="an image cannot be scaled",
    answer="It is malformed and skipped; the engine stays.",
    diagnostics="The camera is ERROR with the reason; frames_malformed counts.",
)
def test_an_image_that_cannot_be_scaled_is_malformed(toy: Bundle) -> None:
    bench = Bench(toy, two_channels)
    bench.send()
    assert bench.port.reported.wait(20)
    bench.stop()
    ((outcome, reason),) = bench.port.rejected
    assert outcome is Outcome.MALFORMED
    assert "cannot be scaled" in reason
    assert (bench.degraded, bench.failures) == ([], [])
    with pytest.raises(ImageError, match="cannot be scaled"):
        host_on(toy, "openvino").perceiver.perceive(two_channels())


def test_stages_add_up_to_the_whole(toy: Bundle) -> None:
    bench = Bench(toy, grey)
    bench.send(waited_ms=300)
    assert bench.port.reported.wait(20)
    bench.stop()
    (times,) = bench.port.times
    assert times.wait >= 300
    parts = times.wait + times.preprocess + times.inference + times.decode + times.publish
    assert parts <= times.end_to_end + 1.0


@pytest.fixture
def two_precisions(tmp_path: Path) -> Callable[[list[str]], Bundle]:
    """A bundle whose int8 variant (the toy network again) is for the given engines."""

    def make(int8_engines: list[str]) -> Bundle:
        toy = read_bundle(write_toy_bundle(tmp_path / "one.mtc"))
        model = toy_model(96, 160)
        fp32 = toy.manifest.variants["fp32"]
        int8 = Variant(
            file="int8.onnx",
            sha256=sha256_hex(model),
            precision="int8",
            engines=int8_engines,  # type: ignore[arg-type]
        )
        golden = toy.manifest.self_test["fp32"]
        manifest = toy.manifest.model_copy(
            update={
                "variants": {"fp32": fp32, "int8-ort": int8},
                "self_test": {"fp32": golden, "int8-ort": golden},
            }
        )
        write_bundle(tmp_path / "two.mtc", manifest, {"model.onnx": model, "int8.onnx": model})
        return read_bundle(tmp_path / "two.mtc")

    return make


@pytest.mark.parametrize(
    ("int8_engines", "precision", "addition"),
    [
        (["openvino", "onnxruntime"], "int8", ""),
        (["openvino"], "fp32", " as fp32 instead of int8"),
    ],
)
def test_a_replacement_keeps_the_precision_asked_for_where_it_can(
    two_precisions: Callable[[list[str]], Bundle],
    int8_engines: list[str],
    precision: str,
    addition: str,
) -> None:
    host = host_on(two_precisions(int8_engines), "openvino", "int8")
    assert host.perceiver.engine.precision == "int8"
    said = host.replace(EngineError("it broke"))
    assert said == host.degraded
    assert said == f"openvino failed: it broke; running on onnxruntime{addition}"
    assert host.perceiver.engine.precision == precision
    with pytest.raises(EngineError, match="no CPU engine is left"):
        host.replace(EngineError("again"))
