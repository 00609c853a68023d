"""From a bundle to an engine that runs it here: the choice, the load and the test."""

import importlib
from contextlib import suppress

from mtc_perception.core.bundle import Bundle
from mtc_perception.core.engine import Engine, EngineChoice, Network
from mtc_perception.core.images import SourceImage
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.core.self_test import check_self_test, run_self_test, self_test_frame
from mtc_perception.util.errors import BundleError, EngineError, UserError, one_line

# In the order that `auto` tries them. Each module has `load(network, threads) -> Engine`; imported
# only when tried, since every runtime is an optional dependency.
_MODULES = {
    "tensorrt": "mtc_perception.engines.tensorrt.engine",
    "openvino": "mtc_perception.engines.openvino",
    "onnxruntime": "mtc_perception.engines.onnxruntime",
}
_WARM_UP_RUNS = 2


def open_engine(
    bundle: Bundle,
    name: EngineChoice = "auto",
    precision: str | None = None,
    threads: int | None = None,
) -> tuple[Engine, str]:
    """Load the bundle's network into an engine, warm it up and test it.

    `auto` takes the first of TensorRT, OpenVINO and ONNX Runtime that runs here. `precision`
    (`fp32`, `fp16`, `int8`) defaults to the bundle's preference for the engine. Returns the engine
    and a sentence saying what was chosen and why. Raises EngineError if nothing can run the bundle
    and BundleError if the bundle breaks its contract or lacks what was asked for.
    """
    if name != "auto":
        _check_offered(name)
        try:
            engine, variant = _tested_engine(bundle, name, precision, threads)
        except EngineError as error:
            raise EngineError(f"{name}: {error}") from error
        return engine, f"{_described(engine, bundle, variant)}, as asked for"
    rejected: list[str] = []
    for candidate in _MODULES:
        try:
            engine, variant = _tested_engine(bundle, candidate, precision, threads)
        except (EngineError, BundleError) as error:
            rejected.append(f"{candidate}: {error}")
            continue
        why = f"; passed over {'; '.join(rejected)}" if rejected else ""
        return engine, f"{_described(engine, bundle, variant)}, chosen automatically{why}"
    raise EngineError(f"{bundle.path}: no engine runs it here: {'; '.join(rejected)}")


def load_engine(network: Network, name: str, threads: int | None = None) -> Engine:
    """Load `network` into the engine `name`, without testing what it computes.

    `threads` defaults to the physical cores this process may use. Raises EngineError if the
    engine is not available here, BundleError if the graph breaks its contract.
    """
    _check_offered(name)
    if threads is not None and threads < 1:
        raise EngineError(f"threads must be at least 1, got {threads}")
    try:
        engine: Engine = importlib.import_module(_MODULES[name]).load(network, threads)
    except UserError:
        raise
    except Exception as error:  # whatever a runtime's bindings do, another engine may work
        raise EngineError(one_line(error)) from error
    return engine


def _check_offered(name: str) -> None:
    if name not in _MODULES:
        raise EngineError(f"unknown engine {name!r}; choose auto, {', '.join(_MODULES)}")


def _tested_engine(
    bundle: Bundle, name: str, precision: str | None, threads: int | None
) -> tuple[Engine, str]:
    variant = bundle.variant_for(name, precision)
    engine = load_engine(Network.of(bundle, variant), name, threads)
    try:
        outputs = run_self_test(engine)
        _, height, width, _ = engine.input.shape
        frame = SourceImage(self_test_frame(height, width), "rgb")
        for _ in range(_WARM_UP_RUNS):
            # The way that a camera's images take must lead to the same.
            engine.prepare(frame, Letterbox.fit(height, width, height, width))
            engine.start()
            outputs = engine.wait()
        golden = next(test for key, test in bundle.manifest.self_test.items() if key == variant)
        check_self_test(outputs, golden, len(bundle.manifest.classes))
    except BaseException as error:
        with suppress(Exception):  # what failed may fail again
            engine.close()
        if not isinstance(error, Exception):
            raise
        # Whatever it is: another engine may work.
        raise EngineError(f"{bundle.path}, variant {variant}: {one_line(error)}") from error
    return engine, variant


def _described(engine: Engine, bundle: Bundle, variant: str) -> str:
    asked = next(v.precision for k, v in bundle.manifest.variants.items() if k == variant)
    runs = f" as {engine.precision}" if engine.precision != asked else ""
    return f"{engine.name} ({engine.device}) running variant {variant}{runs}"
