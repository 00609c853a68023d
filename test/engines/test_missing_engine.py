"""Which stored engine is taken, what a node with `build_engine` builds, and with which library.

Without a GPU there is nothing to build for and nothing loads: there the build is the real one of
TensorRT-RTX for another GPU, and every stored engine is one that does not load.
"""

import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mtc_perception.core.bundle import Assessment, Bundle, read_bundle
from mtc_perception.core.engine import Network
from mtc_perception.engines.tensorrt import missing as missing_engine
from mtc_perception.engines.tensorrt.build import BuildSettings, build_variant, default_flavour
from mtc_perception.engines.tensorrt.cuda import Device
from mtc_perception.engines.tensorrt.engine import engine_key, stored_engine
from mtc_perception.engines.tensorrt.library import import_library, installed_flavours
from mtc_perception.engines.tensorrt.missing import build_missing_engine
from mtc_perception.engines.tensorrt.store import EngineStore
from mtc_perception.util.errors import EngineError
from support.gpu import without_gpu
from support.toy_bundle import write_toy_bundle

ADA = Device("NVIDIA GeForce RTX 4090", "sm89", multiprocessors=128, memory_mib=24_080)

needs_rtx = pytest.mark.skipif(
    "tensorrt_rtx" not in installed_flavours(), reason="TensorRT-RTX is not installed"
)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a Python package of this name and content before all others."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def put(name: str, content: str) -> None:
        (folder / f"{name}.py").write_text(content)
        importlib.invalidate_caches()
        # So that what is imported meanwhile does not stay.
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)

    return put


@needs_rtx
def test_a_library_that_cannot_be_imported_builds_nothing(
    library: Callable[[str, str], None],
) -> None:
    library("tensorrt", 'raise ImportError("libnvinfer.so.10: cannot open shared object file")')
    assert installed_flavours()[0] == "tensorrt"
    assert default_flavour() == "tensorrt_rtx"
    library("tensorrt_rtx", '__version__ = "2.0"')
    with pytest.raises(EngineError) as caught:
        default_flavour()
    assert "TensorRT cannot be imported (libnvinfer.so.10: cannot open" in str(caught.value)
    assert "; TensorRT-RTX 2.0 is not supported: install 1.x" in str(caught.value)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """The toy bundle for TensorRT, and an empty store of engines for it."""
    monkeypatch.setenv("MTC_ENGINE_CACHE", str(tmp_path / "engines"))
    toy = read_bundle(write_toy_bundle(tmp_path / "toy.mtc"))
    variant = toy.manifest.variants["fp32"].model_copy(update={"engines": ["tensorrt"]})
    return read_bundle(write_toy_bundle(tmp_path / "gpu.mtc", variants={"fp32": variant}))


def build(bundle: Bundle) -> str:
    return build_missing_engine(bundle, None, lambda _phase, _fraction: None)


@needs_rtx
def test_damage_hides_no_sound_engine_of_either_library(
    bundle: Bundle, library: Callable[[str, str], None]
) -> None:
    library("tensorrt", '__version__ = "10.3.0"')
    store, network, rtx = EngineStore(), Network.of(bundle, "fp32"), import_library("tensorrt_rtx")
    here = engine_key(network, rtx, ADA)
    damaged = []
    for key in (engine_key(network, import_library("tensorrt"), ADA), here):
        damaged.append(store.put(key, b"engine", {}))
        damaged[-1].write_bytes(b"enginf")
    ahead = replace(here, gpu="", multiprocessors=0, memory_mib=0)
    store.put(ahead, b"ahead of time", {})
    notes: list[str] = []
    found = stored_engine(network, ADA, store, notes.append)
    assert found == (rtx, b"ahead of time")
    assert notes == [f"{path}: is damaged, its sha256 is not its record's" for path in damaged]


def test_nothing_is_built_of_what_lost_too_much(bundle: Bundle) -> None:
    lossy = Assessment(
        measured_on="roads val",
        lost_points={"lane.iou": 2.0},
        tolerance_points=0.3,
        within_tolerance=False,
        timings=[],
    )
    only = {"fp16": bundle.variant("fp32").model_copy(update={"assessment": lossy})}
    bundle = replace(bundle, manifest=bundle.manifest.model_copy(update={"variants": only}))
    with pytest.raises(EngineError, match=r"fp16: lost 2\.0 points of lane\.iou, 0\.3"):
        build(bundle)


@needs_rtx
@without_gpu
def test_an_engine_that_does_not_load_is_built_again_once(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(missing_engine, "current_device", lambda: ADA)
    builds = 0

    def build_for_ada(bundle: Bundle, variant: str, settings: BuildSettings, *others: Any) -> Any:
        nonlocal builds
        builds += 1
        assert settings == BuildSettings("tensorrt_rtx", timings=store.root)
        return build_variant(bundle, variant, replace(settings, targets=("sm89",)), *others)

    store = EngineStore()
    network = Network.of(bundle, "fp32")
    key = engine_key(network, import_library("tensorrt_rtx"), ADA)
    ahead = replace(key, gpu="", multiprocessors=0, memory_mib=0)
    path = store.put(ahead, b"what another driver has made", {})
    monkeypatch.setattr(missing_engine, "build_variant", build_for_ada)
    said = build(bundle)
    (entry,) = store.entries()
    assert said.startswith(f"built {entry.path} in ")
    assert entry.size_bytes > 1000
    assert not path.exists()
    assert builds == 1


@pytest.mark.gpu
def test_on_a_gpu_only_an_engine_that_does_not_load_is_built_again(bundle: Bundle) -> None:
    store = EngineStore()
    try:
        assert build(bundle).startswith("built ")
    except EngineError as error:
        pytest.skip(str(error))
    assert build(bundle) == ""
    (entry,) = store.entries()
    path = store.put(entry.key, b"what another driver has made", {})
    assert build(bundle).startswith("built ")
    assert not path.exists()
    assert build(bundle) == ""
