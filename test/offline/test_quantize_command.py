"""`mtc-compress quantize` of a network without a recipe: a checkpoint, then its bundle."""

from pathlib import Path

import pytest

from mtc_perception.core.bundle import read_bundle
from offline_compress.evaluation import latency
from support.programs import mtc_compress


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "LOADS", 1)
    monkeypatch.setattr(latency, "BLOCKS", 2)


def variants(*names: str) -> tuple[str, str]:
    return "--set", f"compress.quantise.variants=[{','.join(names)}]"


@pytest.mark.slow
def test_a_checkpoint_becomes_a_bundle_that_gets_further_variants(
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    dataset: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "own.mtc"
    data = ("--data", dataset, "--split", "train", "--set", "compress.quantise.images=2")
    assert mtc_compress("quantize", checkpoint, "--out", out, *data, *variants("int8-ort")) == 0
    assert "int8-ort: " in capsys.readouterr().out
    first = read_bundle(out).manifest
    assert first.name == "own"
    assert list(first.variants) == ["fp32", "int8-ort"]
    assert first.thresholds_chosen_on == "roads train, 6 images"
    accuracy = first.variants["fp32"].accuracy
    assert accuracy is not None
    assert accuracy.keys() >= {"detection", "drivable", "lane"}
    assessment = first.variants["int8-ort"].assessment
    assert assessment is not None
    assert assessment.measured_on == "roads train, 6 images"
    [step] = [step for step in first.lineage if step.step == "quantize"]
    assert "static calibration on 2 training frames" in step.detail

    assert mtc_compress("quantize", out, *data, *variants("fp16")) == 0
    second = read_bundle(out).manifest
    assert list(second.variants) == ["fp32", "int8-ort", "fp16"]
    assert second.variants["int8-ort"] == first.variants["int8-ort"]

    wrong = ("--set", "compress.quantise.tolerances=1")
    for words, reason in (
        ((), "give --recipe, or a bundle or checkpoint with --data"),
        ((out, "--recipe", "r.yaml"), "give --recipe, or a bundle or checkpoint with --data"),
        ((out,), "--data is missing"),
        ((out, *data, "--redo"), "--redo and --allow-missed go with --recipe"),
        (("--recipe", "r.yaml", *data), "--data: a recipe says itself"),
        ((checkpoint, *data), "--out is missing: the bundle that the checkpoint becomes"),
        ((checkpoint, *data, "--out", out), "own.mtc exists: choose another --out"),
        ((tmp_path / "none", *data), "none does not exist; give a bundle or a checkpoint"),
        ((out, *data, *wrong), "quantise.tolerances: no such field; did you mean tolerance?"),
        ((out, *data, "--set", "seed=1"), "without a recipe there is compress.quantise alone"),
        ((out, "--data", dataset, "--split", "val"), "val"),
    ):
        assert mtc_compress("quantize", *words) == 2, words
        said = " ".join(capsys.readouterr().err.split())
        assert reason in said, words
        assert "Traceback" not in said
    assert read_bundle(out).manifest == second
