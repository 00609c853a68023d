"""Which variants are tried, and in which order; what a machine is good for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mtc_perception.core.bundle import (
    Assessment,
    Bundle,
    BundleError,
    SelfTest,
    Timing,
    Variant,
    sha256_hex,
)
from mtc_perception.engines import cpu
from mtc_perception.engines.cpu import CpuClass, cpu_class
from mtc_perception.engines.variant_order import variant_order
from support.toy_bundle import toy_manifest

VNNI = CpuClass("x86_64 with VNNI", True)
PLAIN = CpuClass("x86_64 without VNNI", False)
UNKNOWN = CpuClass("riscv64", None)
GOLDEN = SelfTest(drivable_mean=0.5, lane_mean=0.5, top_score=0.5, tolerance=0.05)
ENGINES = {
    "fp32": ["tensorrt", "openvino", "onnxruntime"],
    "fp16": ["tensorrt", "openvino"],
    "int8-ort": ["onnxruntime"],
    "int8-openvino": ["openvino"],
    "int8-trt": ["tensorrt"],
}


def assessment(within: bool = True, **shares: float) -> Assessment:
    return Assessment(
        measured_on="roads val, 3 images",
        lost_points={"lane.iou": 0.1, "detection.map50": 0.2 if within else 1.3},
        tolerance_points=0.3,
        within_tolerance=within,
        timings=[
            Timing(engine=engine, machine=VNNI.name, median_ms=5.0, of_fp32=share)  # type: ignore[arg-type]
            for engine, share in shares.items()
        ],
    )


def bundle(**known: Assessment | None) -> Bundle:
    """A bundle of all variants; `int8_ort=...` gives assessment to `int8-ort`."""
    variants = {
        key: Variant(
            file=f"{key}.onnx",
            sha256=sha256_hex(key.encode()),
            precision=key.split("-")[0],  # type: ignore[arg-type]
            engines=engines,  # type: ignore[arg-type]
            assessment=known.get(key.replace("-", "_")),
        )
        for key, engines in ENGINES.items()
    }
    changes: dict[str, Any] = {"variants": variants, "self_test": dict.fromkeys(variants, GOLDEN)}
    return Bundle(Path("all.mtc"), toy_manifest(b"", 96, 160, GOLDEN, **changes))


ASSESSED = bundle(
    fp16=assessment(openvino=0.99),
    int8_ort=assessment(onnxruntime=0.6),
    int8_openvino=assessment(openvino=0.4),
    int8_trt=assessment(),
)


def test_the_fastest_within_tolerance_goes_first() -> None:
    openvino = variant_order(ASSESSED, "openvino", None, VNNI)
    # fp16 is no faster than fp32: it is there if fp32 fails.
    assert openvino.variants == ["int8-openvino", "fp32", "fp16"]
    assert not openvino.doubtful
    assert variant_order(ASSESSED, "onnxruntime", None, VNNI).variants == ["int8-ort", "fp32"]


def test_what_lost_too_much_is_not_tried_and_told_with_its_worst_figure() -> None:
    lossy = bundle(int8_openvino=assessment(within=False, openvino=0.4))
    choice = variant_order(lossy, "openvino", None, VNNI)
    assert choice.variants == ["fp32", "fp16"]
    reason = "lost 1.3 points of detection.map50, 0.3 are allowed"
    assert choice.passed_over == {"int8-openvino": reason}


def test_int8_needs_a_processor_for_it() -> None:
    choice = variant_order(ASSESSED, "onnxruntime", None, PLAIN)
    assert choice.variants == ["fp32"]
    assert choice.passed_over == {"int8-ort": "slow on x86_64 without VNNI"}


@pytest.mark.parametrize(
    ("machine", "known"),
    [
        (UNKNOWN, assessment(openvino=0.4)),  # measured elsewhere
        (VNNI, assessment(onnxruntime=0.4)),  # on another engine
        (CpuClass("aarch64 with dot products", True), assessment(openvino=0.4)),
    ],
)
def test_int8_that_nobody_has_timed_on_such_a_machine_is_doubtful(
    machine: CpuClass, known: Assessment
) -> None:
    choice = variant_order(bundle(int8_openvino=known), "openvino", None, machine)
    assert choice.variants[:2] == ["int8-openvino", "fp32"]
    assert choice.doubtful == {"int8-openvino"}


def test_what_was_measured_goes_before_what_is_known_of_such_processors() -> None:
    timing = Timing(engine="openvino", machine=PLAIN.name, median_ms=5.0, of_fp32=0.6)
    measured = assessment().model_copy(update={"timings": [timing]})
    choice = variant_order(bundle(int8_openvino=measured), "openvino", None, PLAIN)
    assert choice.variants[0] == "int8-openvino"


def test_tensorrt_is_given_no_precision_that_was_not_validated_there() -> None:
    assert variant_order(ASSESSED, "tensorrt", None, VNNI).variants == ["fp16", "fp32"]
    assert variant_order(ASSESSED, "tensorrt", "int8", VNNI).variants == ["int8-trt"]
    lossy = variant_order(bundle(fp16=assessment(within=False)), "tensorrt", None, VNNI)
    assert lossy.variants == ["fp32"]


def test_no_engine_takes_a_lossy_variant_unasked_even_if_it_has_no_other() -> None:
    for engine, key in (("tensorrt", "int8-trt"), ("openvino", "int8-openvino")):
        lossy = bundle(**{key.replace("-", "_"): assessment(within=False)})
        only = {key: lossy.manifest.variants[key]}
        lossy = replace(lossy, manifest=lossy.manifest.model_copy(update={"variants": only}))
        order = variant_order(lossy, engine, None, VNNI)  # type: ignore[arg-type]
        assert order.variants == []
        assert order.passed_over == {key: "lost 1.3 points of detection.map50, 0.3 are allowed"}
        assert variant_order(lossy, engine, "int8", VNNI).variants == [key]  # type: ignore[arg-type]


def test_a_bundle_without_assessment_keeps_its_own_order() -> None:
    assert variant_order(bundle(), "openvino", None, VNNI).variants == [
        "fp32",
        "fp16",
        "int8-openvino",
    ]


def test_a_precision_that_is_asked_for_needs_no_assessment() -> None:
    lossy = bundle(int8_openvino=assessment(within=False))
    assert variant_order(lossy, "openvino", "int8", PLAIN).variants == ["int8-openvino"]
    with pytest.raises(BundleError, match="no fp16 variant for onnxruntime"):
        variant_order(lossy, "onnxruntime", "fp16", VNNI)


@pytest.mark.parametrize(
    ("machine", "text", "expected"),
    [
        ("x86_64", "flags\t\t: sse avx2 avx512_vnni\n", CpuClass("x86_64 with VNNI", True)),
        ("AMD64", "flags\t\t: avx_vnni\n", CpuClass("x86_64 with VNNI", True)),
        ("x86_64", "flags\t\t: sse amx_int8\n", CpuClass("x86_64 with VNNI", True)),
        ("x86_64", "flags\t\t: sse avx2\n", CpuClass("x86_64 without VNNI", False)),
        ("aarch64", "Features\t: fp asimddp\n", CpuClass("aarch64 with dot products", True)),
        ("arm64", "Features\t: fp asimd\n", CpuClass("aarch64 without dot products", False)),
        ("x86_64", "", CpuClass("x86_64", None)),
        ("riscv64", "flags : avx_vnni\n", CpuClass("riscv64", None)),
    ],
)
def test_what_a_processor_has_is_read_from_linux(
    machine: str, text: str, expected: CpuClass, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(cpu.platform, "machine", lambda: machine)
    assert cpu_class(tmp_path / "cpuinfo") == expected


def test_a_system_without_cpuinfo_does_not_tell(tmp_path: Path) -> None:
    assert cpu_class(tmp_path / "nothing").fast_int8 is None
    assert cpu.cpu_model(tmp_path / "nothing")
