"""`mtc-engine` as a user types it, and what mistakes say."""

import contextlib
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mtc_perception.commands.engine import main
from mtc_perception.core.bundle import SelfTest, Variant, read_bundle, sha256_hex, write_bundle
from mtc_perception.engines.tensorrt.cuda import Device, current_device
from mtc_perception.engines.tensorrt.inspect import count_precisions
from mtc_perception.engines.tensorrt.key import EngineKey, Profile
from mtc_perception.engines.tensorrt.library import installed_flavours
from mtc_perception.engines.tensorrt.machine import Machine
from mtc_perception.engines.tensorrt.store import EngineStore
from mtc_perception.util.errors import EngineError
from support.gpu import missing_gpu, without_gpu
from support.toy_bundle import toy_manifest, toy_model, write_toy_bundle

GOLDEN = SelfTest(drivable_mean=0.5, lane_mean=0.5, top_score=0.5, tolerance=0.05)
COMMANDS = ("build", "list", "inspect", "bench", "clean")

needs_rtx = pytest.mark.skipif(
    "tensorrt_rtx" not in installed_flavours(), reason="tensorrt_rtx is not installed"
)


def run(store: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """How `mtc-engine` ends, in this process."""
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as output,
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        patch.setattr("sys.argv", ["mtc-engine", *map(str, arguments)])
        patch.setenv("MTC_ENGINE_CACHE", str(store))
        patch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            main()
    code = int(ended.value.code or 0)
    return subprocess.CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants for TensorRT: one that it builds, and one that is no network at all."""
    path = tmp_path_factory.mktemp("engine_cli") / "two.mtc"
    files = {"model.onnx": toy_model(96, 160), "model.fp16.onnx": b"not a network"}
    variants = {
        precision: Variant(
            file=name,
            sha256=sha256_hex(files[name]),
            precision=precision,
            engines=["tensorrt"],
        )
        for precision, name in (("fp32", "model.onnx"), ("fp16", "model.fp16.onnx"))
    }
    manifest = toy_manifest(
        files["model.onnx"],
        96,
        160,
        GOLDEN,
        variants=variants,
        self_test=dict.fromkeys(variants, GOLDEN),
    )
    write_bundle(path, manifest, files)
    return path


@pytest.fixture(scope="module")
def built(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the fp32 engine of `bundle` for two compute capabilities."""
    store = tmp_path_factory.mktemp("engines")
    done = run(
        store, "build", bundle, "--precision", "fp32", "--target", "sm86", "--target", "sm89"
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    (path,) = store.glob("*.engine")
    assert line.startswith("fp32: TensorRT-RTX 1.")
    assert line.endswith(str(path))
    return store


@needs_rtx
def test_what_was_built_is_listed_and_inspected(bundle: Path, built: Path) -> None:
    (entry,) = EngineStore(built).entries()
    listed = run(built, "list")
    assert listed.returncode == 0
    assert entry.sha256[:8] in listed.stdout
    assert "two.mtc" in listed.stdout
    assert "sm86, sm89" in listed.stdout
    for name in (entry.sha256[:8], entry.path):
        shown = run(built, "inspect", name)
        assert shown.returncode == 0, shown.stderr
        for fact in (entry.sha256, "two.mtc", "sm86, sm89", "image", "drivable", "1 x 96 x 160"):
            assert fact in shown.stdout
    assert sha256_hex(read_bundle(bundle).model_bytes("fp32")) in shown.stdout
    if missing_gpu():
        assert missing_gpu() in shown.stdout  # in place of the layers


@needs_rtx
def test_one_refused_variant_does_not_stop_the_others(bundle: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "build", bundle, "--flavour", "rtx", "--target", "sm89")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        f"error: 1 of 2 variants not built: {bundle}: model.fp16.onnx: the network is no ONNX file"
    )
    assert [entry.key.precision for entry in EngineStore(tmp_path).entries()] == ["fp32"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("build", "none.mtc", "--target", "sm89"), "none.mtc: no such bundle"),
        (("build", "BUNDLE", "--target", "sm90"), "does not build for 'sm90'; choose current"),
        (("build", "BUNDLE", "--precision", "int8", "--target", "sm89"), "no int8 variant for"),
        (("build", "BUNDLE", "--batch", "2", "--target", "sm89"), "batches of 1 at most, not 2"),
        (("inspect", "0000"), "no engine is called '0000'; mtc-engine list shows"),
    ],
)
@needs_rtx
def test_mistakes_are_one_line(
    bundle: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = run(tmp_path, *(bundle if word == "BUNDLE" else word for word in arguments))
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert done.stdout == ""


@without_gpu
@needs_rtx
def test_without_a_gpu_it_says_so_once(bundle: Path, built: Path) -> None:
    for command in ("build", "bench"):
        done = run(built, command, bundle)
        assert done.returncode == 2
        (line,) = done.stderr.strip().splitlines()
        assert missing_gpu() in line


@pytest.mark.gpu
def test_on_a_gpu_engines_are_built_inspected_and_measured(tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "toy.mtc", 96, 160)
    manifest = read_bundle(bundle).manifest
    entry = manifest.variants["fp32"].model_copy(update={"engines": ["tensorrt"]})
    write_bundle(
        bundle,
        manifest.model_copy(update={"variants": {"fp32": entry}}),
        {entry.file: toy_model(96, 160)},
    )
    store = tmp_path / "store"
    done = run(store, "build", bundle)
    if "does not support" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    (entry_built,) = EngineStore(store).entries()
    assert entry_built.key.gpu == current_device().name
    assert "runs" in run(store, "list").stdout
    assert "layers as they run" in run(store, "inspect", entry_built.path).stdout
    measured = run(store, "bench", bundle, "--runs", 40)
    assert measured.returncode == 0, measured.stderr
    assert "40 camera images" in measured.stdout
    assert "nothing to remove" in run(store, "clean", "--yes").stdout


@needs_rtx
def test_clean_removes_what_another_version_built(built: Path, tmp_path: Path) -> None:
    (entry,) = EngineStore(built).entries()
    store = EngineStore(tmp_path)
    kept = store.put(entry.key, b"engine", {})
    old = store.put(replace(entry.key, version="1.0.0.7"), b"engine of old", {})
    refused = run(tmp_path, "clean")
    assert refused.returncode == 2
    assert "error: nobody to ask: say --yes" in refused.stderr
    assert old.exists()
    done = run(tmp_path, "clean", "--yes")
    assert done.returncode == 0
    assert f"of TensorRT-RTX 1.0.0.7, installed is {entry.key.version}" in done.stdout
    assert kept.exists()
    assert not old.exists()
    assert "nothing to remove" in run(tmp_path, "clean").stdout


@needs_rtx
def test_clean_removes_what_is_named_and_with_all_everything(built: Path, tmp_path: Path) -> None:
    (entry,) = EngineStore(built).entries()
    store = EngineStore(tmp_path)
    kept = store.put(entry.key, b"engine", {})
    old = store.put(replace(entry.key, version="1.0.0.7"), b"engine of old", {})
    assert "no engine is called 'ffff'" in run(tmp_path, "clean", "ffff", "--yes").stderr
    assert "error: name engines, or say --all" in run(tmp_path, "clean", old, "--all").stderr
    assert "removed 1" in run(tmp_path, "clean", old, "--yes").stdout
    assert kept.exists()
    assert not old.exists()
    assert "removed 1" in run(tmp_path, "clean", "--all", "--yes").stdout
    assert not kept.exists()


def test_what_an_older_version_stored_is_listed_and_removed(tmp_path: Path) -> None:
    engine, record = tmp_path / "mtc-old.0123456789ab.engine", tmp_path / "mtc-old.json"
    engine.write_bytes(bytes(2**20))
    record.write_text('{"schema_version": 1}')
    said = "1 of older versions, or damaged: mtc-engine clean removes them"
    assert said in run(tmp_path, "list").stdout
    done = run(tmp_path, "clean", "--yes")
    assert done.returncode == 0
    assert f"{record}  of an older version, or damaged\nremoved 1, 1.0 MiB\n" in done.stdout
    assert not engine.exists()
    assert not record.exists()


@needs_rtx
def test_a_damaged_engine_is_not_inspected(built: Path, tmp_path: Path) -> None:
    (entry,) = EngineStore(built).entries()
    path = EngineStore(tmp_path).put(entry.key, b"engine", {})
    path.write_bytes(b"other")
    done = run(tmp_path, "inspect", path)
    assert done.returncode == 2
    assert f"{path}: is damaged" in done.stderr


def test_help_needs_nothing_of_nvidia() -> None:
    names = ("tensorrt", "tensorrt_rtx", "cuda", "cuda.bindings")
    pages = [["--help"], *([command, "--help"] for command in COMMANDS)]
    script = f"""
import sys
sys.modules.update(dict.fromkeys({names}))
from mtc_perception.commands.engine import app
for words in {pages}:
    app(words, standalone_mode=False)
    print("END OF PAGE")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    overview, *shown, _ = done.stdout.split("END OF PAGE")
    assert all(command in overview for command in COMMANDS)
    for command, page in zip(COMMANDS, shown, strict=True):
        assert f"mtc-engine {command}" in page  # an example


KEY = EngineKey(
    model_sha256="0" * 64,
    precision="fp16",
    profile=Profile(1, 384, 640),
    flavour="tensorrt",
    version="10.3.0",
    gpu="Orin",
    multiprocessors=8,
    memory_mib=7_620,
    compute_capability=("sm87",),
)
ORIN_8GB = Device("Orin", "sm87", multiprocessors=8, memory_mib=7_620)
RTX_4090 = Device("RTX 4090", "sm89", multiprocessors=128, memory_mib=24_080)
AHEAD = replace(
    KEY,
    flavour="tensorrt_rtx",
    version="1.7.1",
    gpu="",
    multiprocessors=0,
    memory_mib=0,
    compute_capability=("sm86", "sm89"),
)
VERSIONS = {"tensorrt": "10.3.0", "tensorrt_rtx": "1.7.1"}


@pytest.mark.parametrize(
    ("device", "key", "misfit"),
    [
        (ORIN_8GB, KEY, None),
        (replace(ORIN_8GB, memory_mib=7_500), KEY, None),  # another kernel keeps a little more
        (Device("Thor", "sm110", 20, 125_000), KEY, "built on Orin, this is Thor"),
        (
            replace(ORIN_8GB, multiprocessors=16, memory_mib=62_800),
            KEY,
            "built on Orin with 8 multiprocessors, this one has 16",
        ),
        (
            replace(ORIN_8GB, memory_mib=15_656),
            KEY,
            "built on Orin with 7620 MiB of memory, this one has 15656",
        ),
        (RTX_4090, AHEAD, None),
        (Device("RTX 2080", "sm75", 46, 7_900), AHEAD, "for sm86, sm89, this GPU is sm75"),
        (ORIN_8GB, replace(KEY, version="8.6.1"), "of TensorRT 8.6.1, installed is"),
        (None, KEY, None),
        (None, replace(AHEAD, version="1.2.0"), "of TensorRT-RTX 1.2.0, installed is 1.7.1"),
    ],
)
def test_what_runs_on_a_machine(device: Device | None, key: EngineKey, misfit: str | None) -> None:
    machine = Machine(VERSIONS, device)
    found = machine.misfit(key)
    if misfit is None:
        assert found is None
    else:
        assert found is not None
        assert found.startswith(misfit)
    assert machine.runs(key) == (misfit is None and device is not None)


def test_libraries_that_are_not_here_prove_nothing() -> None:
    machine = Machine({"tensorrt": "10.3.0"}, RTX_4090)
    assert machine.misfit(AHEAD) is None
    assert not machine.runs(AHEAD)


def test_precisions_of_layers_as_tensorrt_10_and_11_write_them() -> None:
    ten = {
        "Layers": [
            {
                "Inputs": [{"Format/Datatype": "Row major linear FP32 format"}],
                "Outputs": [
                    {"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}
                ],
            },
            {"Inputs": [{"Format/Datatype": "Half"}], "Outputs": [{"Format/Datatype": "Half"}]},
            {
                "Inputs": [
                    {"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}
                ],
                "Outputs": [{"Format/Datatype": "Float"}],
            },
            {"Inputs": [], "Outputs": [{"Format/Datatype": "Int64"}]},
        ]
    }
    assert count_precisions(json.dumps(ten)) == {"fp16": 2, "int8": 1}
    eleven = {
        "Layers": [
            {
                "Inputs": [{"Format": "Row major linear format (kLINEAR)", "DataType": "Float"}],
                "Outputs": [{"Format": "Row major linear format (kLINEAR)", "DataType": "Float"}],
            }
        ]
    }
    assert count_precisions(json.dumps(eleven)) == {"fp32": 1}
    with pytest.raises(EngineError, match="holds no details"):
        count_precisions(json.dumps({"Layers": ["only a name"]}))
    with pytest.raises(EngineError, match="no JSON: Expecting"):
        count_precisions('{"Layers": [')
