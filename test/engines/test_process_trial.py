"""Trials of variants in processes of their own, what is kept of them, and what it leads to."""

import json
import resource
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mtc_perception.core.bundle import (
    Assessment,
    Bundle,
    Timing,
    Variant,
    read_bundle,
    sha256_hex,
    write_bundle,
)
from mtc_perception.core.engine import Network
from mtc_perception.engines import cpu
from mtc_perception.engines import process_trial as trial
from mtc_perception.engines.open import open_engine
from mtc_perception.engines.process_trial import TrialError, ensure_tried, run_trial
from mtc_perception.util.deadline import Deadline
from mtc_perception.util.errors import EngineError
from support.toy_bundle import toy_model, write_toy_bundle

HEIGHT, WIDTH = 96, 160


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mtc_perception" / "trials"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """fp32 and int8 for each CPU engine: the same network, so that both pass the self-test."""
    path = write_toy_bundle(tmp_path_factory.mktemp("bundles") / "toy.mtc", HEIGHT, WIDTH)
    single = read_bundle(path).manifest
    model = toy_model(HEIGHT, WIDTH)
    fp32 = single.variants["fp32"]
    proof = Assessment(
        measured_on="roads val, 3 images",
        lost_points={"lane.iou": 0.1},
        tolerance_points=0.3,
        within_tolerance=True,
        timings=[
            Timing(engine=engine, machine=cpu.cpu_class().name, median_ms=1.0, of_fp32=0.5)
            for engine in ("openvino", "onnxruntime")
        ],
    )
    entries = {"fp32": fp32}
    files: dict[str, bytes | Path] = {fp32.file: model}
    for key, engine in (("int8-openvino", "openvino"), ("int8-ort", "onnxruntime")):
        # Another file with the same meaning: a name of the graph.
        data = model + b"\x12\x03" + key[-3:].encode()
        entries[key] = Variant(
            file=f"{key}.onnx",
            sha256=sha256_hex(data),
            precision="int8",
            engines=[engine],  # type: ignore[list-item]
            assessment=proof,
        )
        files[f"{key}.onnx"] = data
    manifest = single.model_copy(
        update={
            "variants": entries,
            "self_test": dict.fromkeys(entries, single.self_test["fp32"]),
        }
    )
    write_bundle(path.with_name("two.mtc"), manifest, files)
    return read_bundle(path.with_name("two.mtc"))


@pytest.fixture(scope="module")
def outcomes(toy: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a cache holds after the trials for ONNX Runtime."""
    home = tmp_path_factory.mktemp("tried")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home))
        for variant in ("fp32", "int8-ort"):
            assert ensure_tried(Network.of(toy, variant), "onnxruntime") == ""
    return home / "mtc_perception" / "trials"


@pytest.fixture
def tried(cache: Path, outcomes: Path) -> Path:
    """The cache of a machine that has tried the variants for ONNX Runtime."""
    shutil.copytree(outcomes, cache)
    return cache


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Call it with shell code that stands in for Python where a trial is started; `$python`
    is the real one."""

    def stand_in(code: str) -> None:
        script = tmp_path / "python"
        script.write_text(f"#!/bin/sh\npython={sys.executable}\n{code}\n")
        script.chmod(0o755)
        monkeypatch.setattr(trial.sys, "executable", str(script))

    return stand_in


def test_the_fast_variant_is_taken_and_why(toy: Bundle, cache: Path) -> None:
    engine, variant, why, _ = open_engine(toy, "onnxruntime")
    engine.close()
    assert variant == "int8-ort"
    assert "running variant int8-ort, as asked for" in why
    [record] = cache.glob("*.json")
    content = json.loads(record.read_text())
    assert content["outcome"] == "ran"
    assert content["engine"].startswith("onnxruntime ")
    assert content["sha256"] == toy.manifest.variants["int8-ort"].sha256


@pytest.mark.fault(
    area="store",
    row="other users may write where outcomes of trials are kept",
    answer="They are not believed: the variant is tried again.",
    diagnostics="why says that the outcome is not kept.",
)
def test_outcomes_that_others_may_have_written_are_not_believed(toy: Bundle, cache: Path) -> None:
    open_engine(toy, "onnxruntime").engine.close()
    [record] = cache.glob("*.json")
    assert (cache.stat().st_mode & 0o777, record.stat().st_mode & 0o777) == (0o700, 0o600)
    forged = json.loads(record.read_text()) | {"outcome": "crashes (SIGSEGV)"}
    record.write_text(json.dumps(forged))
    record.chmod(0o666)
    engine, variant, why, _ = open_engine(toy, "onnxruntime")
    engine.close()
    assert variant == "int8-ort"
    assert json.loads(record.read_text())["outcome"] == "ran"
    cache.chmod(0o777)
    engine, _, why, _ = open_engine(toy, "onnxruntime")
    engine.close()
    assert f"the outcome of its trial is not kept: other users may change {cache}" in why


@pytest.mark.usefixtures("tried")
def test_a_second_start_starts_no_process(
    toy: Bundle, interpreter: Callable[[str], None], tmp_path: Path
) -> None:
    interpreter(f"touch {tmp_path}/started; exit 1")
    engine, variant, _, _ = open_engine(toy, "onnxruntime")
    engine.close()
    assert variant == "int8-ort"
    assert not (tmp_path / "started").exists()


@pytest.mark.fault(
    area="engine",
    row="a variant crashes its runtime",
    answer="It crashes a process of its own; the next variant is taken, and the crash remembered.",
    diagnostics="why names the variant and the signal.",
)
def test_a_crash_leads_to_the_next_variant_of_the_same_engine_and_is_remembered(
    toy: Bundle, interpreter: Callable[[str], None], cache: Path
) -> None:
    # int8 graphs crash the compiler, others do not.
    interpreter('case "$*" in *int8*) kill -SEGV $$;; esac; exec "$python" "$@"')
    engine, variant, why, _ = open_engine(toy)
    engine.close()
    assert (engine.name, variant) == ("openvino", "fp32")
    assert "variant int8-openvino: crashes (SIGSEGV)" in why
    outcomes = [json.loads(record.read_text())["outcome"] for record in cache.glob("*.json")]
    assert sorted(outcomes) == ["crashes (SIGSEGV)", "ran"]

    interpreter("exit 1")  # nothing is tried again
    engine, variant, why, _ = open_engine(toy)
    engine.close()
    assert variant == "fp32"
    assert "crashes (SIGSEGV), as tried before; to try again remove" in why


def test_what_kills_a_trial_from_outside_says_nothing_of_the_variant(
    toy: Bundle, interpreter: Callable[[str], None], cache: Path
) -> None:
    interpreter('case "$*" in *int8*) kill -KILL $$;; esac; exec "$python" "$@"')
    engine, variant, why, _ = open_engine(toy, "openvino")
    engine.close()
    assert variant == "fp32"
    assert "was killed (SIGKILL) in its trial" in why
    assert len(list(cache.glob("*.json"))) == 1  # fp32's


@pytest.mark.fault(
    area="memory",
    row="a trial crashes under a limit of memory (ulimit -v)",
    answer="The next variant is taken; with more memory the first one is tried again.",
    diagnostics="why names the variant and the signal.",
)
def test_a_crash_for_want_of_memory_is_not_remembered(
    toy: Bundle, interpreter: Callable[[str], None], cache: Path
) -> None:
    interpreter('case "$*" in *int8*) kill -ABRT $$;; esac; exec "$python" "$@"')
    unlimited = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**46, unlimited[1]))
    try:
        engine, variant, why, _ = open_engine(toy, "openvino")
        engine.close()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, unlimited)
    assert variant == "fp32"
    assert "variant int8-openvino: crashes (SIGABRT)" in why
    assert len(list(cache.glob("*.json"))) == 1  # fp32's


def test_a_trial_that_hangs_is_ended_and_may_be_tried_again(
    toy: Bundle, interpreter: Callable[[str], None]
) -> None:
    interpreter("exec sleep 60")
    network = Network.of(toy, "fp32")
    with pytest.raises(TrialError, match=r"does not finish in 0 s") as caught:
        run_trial(network, "openvino", deadline=Deadline(0.2))
    assert not caught.value.lasting  # the machine may have been busy


@pytest.mark.fault(
    area="bundle",
    row="a variant computes something else than its bundle says",
    answer="The self-test refuses it; the next variant is taken.",
    diagnostics="why names the variant and what differs.",
)
def test_a_variant_that_computes_something_else_gives_way(toy: Bundle, tmp_path: Path) -> None:
    """A field that says `within tolerance` is no proof: the self-test is."""
    entries = dict(toy.manifest.variants)
    files = {entry.file: toy.model_bytes(key) for key, entry in entries.items()}
    wrong = toy_model(HEIGHT, WIDTH, gain=0.9)
    files["int8-openvino.onnx"] = wrong
    entries["int8-openvino"] = entries["int8-openvino"].model_copy(
        update={"sha256": sha256_hex(wrong)}
    )
    manifest = toy.manifest.model_copy(update={"variants": entries})
    write_bundle(tmp_path / "lies.mtc", manifest, files)
    engine, variant, why, _ = open_engine(read_bundle(tmp_path / "lies.mtc"))
    engine.close()
    assert (engine.name, variant) == ("openvino", "fp32")
    assert "variant int8-openvino: self-test: top_score is 0.4323" in why


def test_a_variant_that_is_no_network_gives_way(toy: Bundle, tmp_path: Path) -> None:
    entries = dict(toy.manifest.variants)
    files = {entry.file: toy.model_bytes(key) for key, entry in entries.items()}
    files["int8-openvino.onnx"] = b"nonsense"
    entries["int8-openvino"] = entries["int8-openvino"].model_copy(
        update={"sha256": sha256_hex(b"nonsense")}
    )
    manifest = toy.manifest.model_copy(update={"variants": entries})
    write_bundle(tmp_path / "broken.mtc", manifest, files)
    engine, variant, why, _ = open_engine(read_bundle(tmp_path / "broken.mtc"))
    engine.close()
    assert (engine.name, variant) == ("openvino", "fp32")
    reason = f"{tmp_path}/broken.mtc: int8-openvino.onnx: the network is no ONNX file"
    assert f"variant int8-openvino: {reason}" in why


@pytest.mark.fault(
    area="disk",
    row="the disk is full when the outcome of a trial is to be kept",
    answer="The engine runs; the next start tries again.",
    diagnostics="why says that it is not kept.",
)
def test_a_full_disk_keeps_nobody_from_driving(
    toy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no folder can be made in it
    engine, variant, why, _ = open_engine(toy, "onnxruntime")
    engine.close()
    assert variant == "int8-ort"
    assert "the outcome of its trial is not kept" in why


def test_a_user_without_a_home_drives(
    toy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(trial.Path, "home", nobody)
    assert "there is no home folder" in ensure_tried(Network.of(toy, "fp32"), "onnxruntime")


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError("no more processes")])
def test_a_trial_that_was_not_made_is_not_remembered(
    toy: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(trial.subprocess, "Popen", fail)
    with pytest.raises(type(failure)):
        ensure_tried(Network.of(toy, "fp32"), "onnxruntime")
    assert not list(cache.glob("*.json"))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"outcome": 3}', '{"outcome": "ran"}'])
def test_a_damaged_record_is_made_anew(toy: Bundle, tried: Path, content: str) -> None:
    network = Network.of(toy, "fp32")
    record = trial.TrialMemory(network, "onnxruntime").record
    assert record is not None
    assert record.parent == tried
    good = record.read_text()
    record.write_text(content)
    assert ensure_tried(network, "onnxruntime") == ""
    assert record.read_text() == good


@pytest.mark.usefixtures("tried")
@pytest.mark.parametrize(
    ("times_ms", "taken", "words"),
    [
        ([3.0, 5.0], "int8-ort", "variant fp32: 5.0 ms here, int8-ort 3.0 ms"),
        ([5.0, 3.0], "fp32", "variant int8-ort: 5.0 ms here, fp32 3.0 ms"),
    ],
)
def test_a_doubtful_variant_is_timed_beside_the_next_once(
    toy: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    times_ms: list[float],
    taken: str,
    words: str,
) -> None:
    from mtc_perception.engines import open as opening

    monkeypatch.setattr(opening, "cpu_class", lambda: cpu.CpuClass("riscv64", None))
    monkeypatch.setattr(opening, "_times_ms", lambda *_: times_ms)
    engine, variant, why, _ = open_engine(toy, "onnxruntime")
    engine.close()
    assert variant == taken
    assert words in why

    monkeypatch.setattr(opening, "_times_ms", lambda *_: pytest.fail("was timed again"))
    engine, variant, _, _ = open_engine(toy, "onnxruntime")
    engine.close()
    assert variant == taken  # every later start, and every process, decides alike


@pytest.mark.usefixtures("tried")
def test_of_two_timed_engines_the_one_that_fails_is_closed(
    toy: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mtc_perception.engines import open as opening

    def fail(*_: object) -> None:
        raise EngineError("lost")

    monkeypatch.setattr(opening, "cpu_class", lambda: cpu.CpuClass("riscv64", None))
    monkeypatch.setattr(opening, "_times_ms", fail)
    engine, variant, why, _ = open_engine(toy, "onnxruntime")
    engine.close()
    assert variant == "fp32"
    assert "variant int8-ort: lost" in why


def test_a_graph_that_is_refused_keeps_its_reason(toy: Bundle) -> None:
    network = replace(Network.of(toy, "fp32"), model=b"\x3a\x00")
    with pytest.raises(EngineError, match="ONNX Runtime cannot load the network") as caught:
        run_trial(network, "onnxruntime")
    assert not isinstance(caught.value, TrialError)
