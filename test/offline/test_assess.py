"""`mtc-compress assess`: what variants lose and gain, into the manifest of their bundle."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtc_perception.core.bundle import Bundle, Thresholds, Timing, read_bundle
from mtc_perception.engines.cpu import cpu_class
from mtc_perception.util.errors import BundleError
from offline_compress.export import export_bundle
from offline_compress.quantization.assess import assess, write_assessed
from offline_compress.quantization.bundling import add_variants
from offline_compress.quantization.quantise import quantise
from offline_compress.recipe.compression import Quantisation
from support.toy_bundle import write_toy_bundle

pytestmark = pytest.mark.slow
LOSSES = {"fp32": 0.0, "fp16": 0.0005, "int8-ort": 0.004}


def evaluate(variant: str, graph: bytes) -> dict[str, Any]:
    return {"detection": {"recall": 0.9, "map50": 0.8}, "lane": {"iou": 0.5 - LOSSES[variant]}}


@pytest.fixture
def bundle(checkpoint: Path, tmp_path: Path) -> Bundle:
    thresholds = Thresholds(score=0.3, drivable=0.5, lane=0.5)
    export_bundle(checkpoint, tmp_path / "fp32.mtc", thresholds, None)
    frames = [np.zeros((1, 128, 192, 3), np.uint8)]
    found = read_bundle(tmp_path / "fp32.mtc")
    made = quantise(
        found.model_bytes("fp32"), frames, ["fp16", "int8-ort"], evaluate, Quantisation()
    )
    add_variants(found, made, tmp_path / "b.mtc", "roads val, 1 images")
    return read_bundle(tmp_path / "b.mtc")


def test_it_says_what_was_lost_and_what_it_takes(bundle: Bundle) -> None:
    elsewhere = Timing(engine="onnxruntime", machine="riscv64", median_ms=9.0, of_fp32=1.5)
    entries = dict(bundle.manifest.variants)
    before = entries["int8-ort"].assessment
    assert before is not None
    assert before.within_tolerance is False
    assert before.lost_points["lane.iou"] == 0.4
    entries["int8-ort"] = entries["int8-ort"].model_copy(
        update={"assessment": before.model_copy(update={"timings": [elsewhere]})}
    )
    older = bundle.manifest.model_copy(update={"variants": entries})
    manifest = assess(replace(bundle, manifest=older), evaluate, "camvid val, 84 images", 0.5)
    write_assessed(bundle, manifest)

    written = read_bundle(bundle.path).manifest
    assert written.variants["fp32"].assessment is None
    found = written.variants["int8-ort"].assessment
    assert found is not None
    assert found.measured_on == "camvid val, 84 images"
    assert found.lost_points == {"detection.recall": 0, "detection.map50": 0, "lane.iou": 0.4}
    assert found.within_tolerance  # of half a point
    here, there = found.timings
    assert (here.engine, here.machine) == ("onnxruntime", cpu_class().name)
    assert here.of_fp32 > 0
    assert there == elsewhere
    half = written.variants["fp16"].assessment
    assert half is not None
    assert [one.engine for one in half.timings] == ["openvino"]


def test_without_fp32_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    bundle = read_bundle(write_toy_bundle(tmp_path / "toy.mtc"))
    entry = bundle.manifest.variants["fp32"].model_copy(update={"precision": "fp16"})
    manifest = bundle.manifest.model_copy(update={"variants": {"fp16": entry}})
    with pytest.raises(BundleError, match="no variant 'fp32'"):
        assess(replace(bundle, manifest=manifest), evaluate, "camvid val", 0.3)
