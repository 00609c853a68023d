import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtc_perception.core.bundle import (
    Manifest,
    SelfTest,
    Variant,
    read_bundle,
    sha256_hex,
    write_bundle,
)
from mtc_perception.core.self_test import self_test_frame
from mtc_perception.util import files
from mtc_perception.util.errors import BundleError
from support.toy_bundle import toy_manifest, toy_model, write_toy_bundle

GOLDEN = SelfTest(drivable_mean=0.5, lane_mean=0.5, top_score=0.5, tolerance=0.05)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_toy_bundle(tmp_path / "toy.mtc")


def refusal(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        read_bundle(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def flip_byte(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x01
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["toy.mtc", "toy.mtc.zip"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    path = write_toy_bundle(tmp_path / "deeper" / name)
    bundle = read_bundle(path)
    assert bundle.manifest.name == "toy"
    assert bundle.model_bytes("fp32") == toy_model(96, 160)
    assert bundle.manifest == read_bundle(str(path)).manifest


@pytest.mark.parametrize("below", ["", "toy.mtc/", "models/toy.mtc/"])
@pytest.mark.parametrize(
    "beside",
    [[], ["__MACOSX/toy.mtc/._manifest.json", "__MACOSX/._toy.mtc"], [".DS_Store"], ["notes.txt"]],
)
def test_a_bundle_is_found_in_a_zip(
    below: str, beside: list[str], bundle: Path, tmp_path: Path
) -> None:
    zipped = tmp_path / "elsewhere.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        for name in beside:
            archive.writestr(name, b"\0\5\x16\7")
        for file in bundle.iterdir():
            archive.write(file, f"{below}{file.name}")
    assert read_bundle(zipped).manifest == read_bundle(bundle).manifest


def test_a_zip_of_two_bundles_is_refused(bundle: Path, tmp_path: Path) -> None:
    zipped = tmp_path / "both.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        for folder in ("old.mtc", "new.mtc"):
            archive.write(bundle / "manifest.json", f"{folder}/manifest.json")
    message = refusal(zipped)
    assert "several bundles: old.mtc/manifest.json, new.mtc/manifest.json" in message


@pytest.mark.parametrize("name", ["toy.mtc", "toy.zip"])
def test_writing_twice_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    first = write_toy_bundle(tmp_path / "a" / name)
    second = write_toy_bundle(tmp_path / "b" / name)

    def content(path: Path) -> dict[str, bytes]:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return {file.name: file.read_bytes() for file in files}

    assert content(first) == content(second)


@pytest.mark.parametrize("name", ["toy.mtc", "toy.zip"])
def test_writing_replaces_the_old_bundle_and_leaves_nothing_else(tmp_path: Path, name: str) -> None:
    path = write_toy_bundle(tmp_path / name)
    write_toy_bundle(path, version="2")
    assert read_bundle(path).manifest.version == "2"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_refused_write_leaves_the_old_bundle(bundle: Path) -> None:
    model = toy_model(96, 160)
    manifest = toy_manifest(model, 96, 160, GOLDEN, version="2")
    with pytest.raises(BundleError, match="sha256"):
        write_bundle(bundle, manifest, {"model.onnx": model + b"x"})
    with pytest.raises(BundleError, match=r"names the files \['model.onnx'\]"):
        write_bundle(bundle, manifest, {"model.onnx": model, "more.onnx": model})
    assert read_bundle(bundle).manifest.version == "1"
    assert len(list(bundle.parent.iterdir())) == 1


@pytest.mark.parametrize("name", ["toy.mtc", "toy.zip"])
@pytest.mark.parametrize("failure", [OSError("disk failure"), KeyboardInterrupt("Ctrl-C")])
def test_a_failed_write_leaves_the_old_bundle(
    tmp_path: Path, name: str, failure: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_toy_bundle(tmp_path / name)
    replace = os.replace

    def fails_once(source: str | Path, target: Path) -> None:
        if target == path:
            monkeypatch.undo()
            raise failure
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails_once)
    monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    with pytest.raises(type(failure), match=str(failure)):
        write_toy_bundle(path, version="2")
    assert read_bundle(path).manifest.version == "1"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_ctrl_c_right_after_the_old_bundle_is_set_aside(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def interrupted(source: str | Path, target: Path) -> None:
        replace(source, target)
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    with pytest.raises(KeyboardInterrupt):
        write_toy_bundle(bundle, version="2")
    assert read_bundle(bundle).manifest.version == "1"
    assert len(list(bundle.parent.iterdir())) == 1


@pytest.mark.parametrize("name", ["something", "something.zip"])
def test_only_a_bundle_is_overwritten(tmp_path: Path, name: str) -> None:
    other = tmp_path / name
    if other.suffix:
        other.write_text("precious")
    else:
        other.mkdir()
        (other / "precious.txt").write_text("precious")
    with pytest.raises(BundleError, match="exists and is not a bundle"):
        write_toy_bundle(other)
    kept = other if other.suffix else other / "precious.txt"
    assert kept.read_text() == "precious"


def test_absent_bundle(tmp_path: Path) -> None:
    assert "no such bundle" in refusal(tmp_path / "absent.mtc")


def test_neither_directory_nor_zip(tmp_path: Path) -> None:
    path = tmp_path / "text.mtc"
    path.write_text("hello")
    assert "neither a bundle directory nor a zip file" in refusal(path)


@pytest.mark.parametrize("file", ["manifest.json", "model.onnx"])
def test_missing_file(bundle: Path, file: str) -> None:
    (bundle / file).unlink()
    assert f"{file} is missing" in refusal(bundle)


def test_flipped_byte(bundle: Path) -> None:
    flip_byte(bundle / "model.onnx", 100)
    assert "model.onnx is damaged" in refusal(bundle)


def test_every_damage_to_a_zip_is_refused_or_harmless(tmp_path: Path) -> None:
    path = write_toy_bundle(tmp_path / "toy.zip")
    whole = path.read_bytes()
    model, manifest = toy_model(96, 160), read_bundle(path).manifest
    refused = 0
    for offset in range(0, len(whole), 7):
        path.write_bytes(whole)
        flip_byte(path, offset)
        try:
            bundle = read_bundle(path)
        except BundleError:
            refused += 1
        else:  # a date or an attribute of the zip file
            assert bundle.model_bytes("fp32") == model
            assert bundle.manifest == manifest
    assert refused > 0.9 * len(whole) / 7


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_zip(tmp_path: Path, share: float) -> None:
    path = write_toy_bundle(tmp_path / "toy.zip")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert "zip" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_manifest_that_is_not_json(bundle: Path, content: bytes) -> None:
    (bundle / "manifest.json").write_bytes(content)
    assert "manifest.json is not JSON" in refusal(bundle)


def test_manifest_that_is_no_object(bundle: Path) -> None:
    (bundle / "manifest.json").write_text("[]")
    assert "not a JSON object" in refusal(bundle)


@pytest.mark.parametrize("version", [0, 5, "1", None, True])
def test_other_schema_version(bundle: Path, version: object) -> None:
    # A later schema differs elsewhere too; the message must still be about the version.
    edit(bundle, lambda manifest: manifest.update(schema_version=version, novelty=1))
    assert f"schema version is {version!r}" in refusal(bundle)


def test_a_bundle_of_an_older_schema_has_all_tasks(bundle: Path) -> None:
    edit(bundle, lambda m: (m.update(schema_version=3), m.pop("tasks")))
    assert read_bundle(bundle).manifest.tasks == ["detection", "drivable", "lane"]


MODEL_PATHS = ["../model.onnx", "/etc/hostname", "a/b.onnx", "..", "", "manifest.json", "a\\b"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(colour="red"), "manifest.json: colour: Extra inputs"),
        (lambda m: m["input"].update(mean=0), "input.mean: Extra inputs"),
        (lambda m: m.pop("thresholds"), "thresholds: Field required"),
        (lambda m: m["thresholds"].update(lane=1.5), "thresholds.lane: "),
        (lambda m: m["thresholds"].update(lane=float("nan")), "thresholds.lane: "),
        (lambda m: m["variants"].clear(), "variants: "),
        (lambda m: m["variants"]["fp32"].update(precision="int8"), "variants.fp32"),
        (lambda m: m["variants"]["fp32"].update(engines=["abacus"]), "variants.fp32.engines.0"),
        (lambda m: m["variants"]["fp32"].update(sha256="00"), "variants.fp32.sha256"),
        (lambda m: m["variants"].update(fp64=m["variants"]["fp32"]), "variants.fp64"),
        (lambda m: m["self_test"].clear(), "self_test must hold exactly the variants"),
        (lambda m: m.update(classes=[]), "classes and max_detections are those of the task"),
        (lambda m: m.update(max_detections=0), "classes and max_detections are those of the task"),
        (lambda m: m.update(tasks=[]), "tasks: "),
        (lambda m: m.update(tasks=["lane", "detection"]), "each once, in this order"),
        (lambda m: m.update(tasks=["detection", "lane"]), "self_test.fp32 must hold exactly"),
        (lambda m: m["self_test"]["fp32"].pop("lane_mean"), "self_test.fp32 must hold exactly"),
        (lambda m: m.update(classes=["car", "car"]), "a class name occurs twice"),
        (lambda m: m["input"].update(height=0), "input.height: "),
        *(
            (lambda m, file=file: m["variants"]["fp32"].update(file=file), "variants.fp32.file")
            for file in MODEL_PATHS
        ),
    ],
)
def test_manifest_against_the_schema(
    bundle: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    edit(bundle, change)
    assert reason in refusal(bundle)


def two_variants() -> Manifest:
    int8 = Variant(
        file="b.onnx", sha256=sha256_hex(b"b"), precision="int8", engines=["onnxruntime"]
    )
    fp32 = Variant(
        file="a.onnx", sha256=sha256_hex(b"a"), precision="fp32", engines=["onnxruntime"]
    )
    return toy_manifest(
        b"",
        96,
        160,
        GOLDEN,
        variants={"int8-ort": int8, "fp32": fp32},
        self_test={"int8-ort": GOLDEN, "fp32": GOLDEN},
    )


def test_variants_are_in_the_manifests_order(tmp_path: Path) -> None:
    path = tmp_path / "two.mtc"
    write_bundle(path, two_variants(), {"a.onnx": b"a", "b.onnx": b"b"})
    bundle = read_bundle(path)
    assert bundle.variants_for("onnxruntime") == ["int8-ort", "fp32"]
    assert bundle.variants_for("onnxruntime", "fp32") == ["fp32"]
    with pytest.raises(BundleError, match="no variant for openvino; the bundle has int8-ort"):
        bundle.variants_for("openvino")
    with pytest.raises(BundleError, match="no fp16 variant for onnxruntime"):
        bundle.variants_for("onnxruntime", "fp16")
    with pytest.raises(BundleError, match="no variant 'fp16'"):
        bundle.model_bytes("fp16")


def test_two_variants_cannot_share_a_file() -> None:
    manifest = two_variants().model_dump()
    manifest["variants"]["fp32"]["file"] = "b.onnx"
    with pytest.raises(ValueError, match="two variants name the same file"):
        Manifest.model_validate(manifest)


def test_a_model_changed_after_reading_is_refused(bundle: Path) -> None:
    opened = read_bundle(bundle)
    flip_byte(bundle / "model.onnx", 100)
    with pytest.raises(BundleError, match="damaged"):
        opened.model_bytes("fp32")


def test_self_test_frame_is_the_same_everywhere() -> None:
    # Golden values in shipped bundles depend on these very bytes.
    assert sha256_hex(self_test_frame(384, 640).tobytes()).startswith("51ddf3f4")
    assert sha256_hex(self_test_frame(32, 64).tobytes()).startswith("df81f04c")
    assert self_test_frame(1, 1).shape == (1, 1, 3)
