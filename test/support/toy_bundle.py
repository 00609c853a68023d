"""A tiny network that keeps the bundle contract and whose right answers are known by hand.

With m the mean of all input bytes / 255: score k is m / (k + 1), box k is the top-left part of
the input scaled by m / (k + 1), label k is k modulo the number of classes; drivable is the red
channel and lane the green channel, as they are. It may lack tasks: then it lacks their outputs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from mtc_perception.core.bundle import (
    EngineName,
    InputSpec,
    LineageStep,
    Manifest,
    SelfTest,
    Thresholds,
    Training,
    Variant,
    sha256_hex,
    write_bundle,
)
from mtc_perception.core.engine import Network, Outputs
from mtc_perception.core.self_test import measure_self_test, run_self_test
from mtc_perception.core.tasks import TASKS, Task, outputs_of
from mtc_perception.engines.load import load_engine

CLASSES = ["vehicle", "truck"]
MAX_DETECTIONS = 5


def toy_model(
    height: int,
    width: int,
    *,
    gain: float = 1.0,
    batch: int | str = 1,
    labels: str = "labels",
    tasks: Sequence[Task] = TASKS,
) -> bytes:
    """The toy network as ONNX. `gain` multiplies every score and box (NaN: a broken network)."""
    parts = np.array([gain / (k + 1) for k in range(MAX_DETECTIONS)], np.float32)
    corners = np.array([0, 0, width, height], np.float32)
    constants = {
        "byte_scale": np.array(1 / 255, np.float32),
        "parts": parts[None, :],
        "corners": parts[None, :, None] * corners[None, None, :],
        "axis_1": np.array([1], np.int64),
        "axis_2": np.array([2], np.int64),
        "zero": np.array(0, np.float32),
        "offsets": (np.arange(MAX_DETECTIONS) % len(CLASSES)).astype(np.float32)[None, :],
        "red": np.array(0, np.int64),
        "green": np.array(1, np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["bytes_mean"], keepdims=0, axes=[1, 2, 3]),
        helper.make_node("Mul", ["bytes_mean", "byte_scale"], ["mean"]),
        helper.make_node("Unsqueeze", ["mean", "axis_1"], ["mean_row"]),
        helper.make_node("Unsqueeze", ["mean_row", "axis_2"], ["mean_cell"]),
        helper.make_node("Mul", ["mean_row", "parts"], ["scores"]),
        helper.make_node("Mul", ["mean_cell", "corners"], ["boxes"]),
        # The labels depend on the input only to have its batch dimension.
        helper.make_node("Mul", ["mean_row", "zero"], ["no_offset"]),
        helper.make_node("Add", ["no_offset", "offsets"], ["float_labels"]),
        helper.make_node("Cast", ["float_labels"], [labels], to=TensorProto.INT64),
        # TensorRT takes bytes in and gives bytes out, but computes with none.
        helper.make_node("Gather", ["floats", "red"], ["red_floats"], axis=3),
        helper.make_node("Gather", ["floats", "green"], ["green_floats"], axis=3),
        helper.make_node("Cast", ["red_floats"], ["drivable"], to=TensorProto.UINT8),
        helper.make_node("Cast", ["green_floats"], ["lane"], to=TensorProto.UINT8),
    ]

    def tensor(name: str, kind: int, *shape: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, [batch, *shape])

    outputs = {
        "boxes": tensor("boxes", TensorProto.FLOAT, MAX_DETECTIONS, 4),
        "scores": tensor("scores", TensorProto.FLOAT, MAX_DETECTIONS),
        "labels": tensor(labels, TensorProto.INT64, MAX_DETECTIONS),
        "drivable": tensor("drivable", TensorProto.UINT8, height, width),
        "lane": tensor("lane", TensorProto.UINT8, height, width),
    }
    graph = helper.make_graph(
        nodes,
        "toy",
        [tensor("image", TensorProto.UINT8, height, width, 3)],
        [outputs[name] for name in outputs_of(tasks)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def toy_manifest(
    model: bytes,
    height: int,
    width: int,
    golden: SelfTest,
    *,
    engines: Sequence[EngineName] = ("openvino", "onnxruntime"),
    **changes: Any,
) -> Manifest:
    """The manifest for `model`, with any of its fields replaced by `changes`."""
    fields: dict[str, Any] = {
        "name": "toy",
        "version": "1",
        "variants": {
            "fp32": Variant(
                file="model.onnx",
                sha256=sha256_hex(model),
                precision="fp32",
                engines=list(engines),
            )
        },
        "input": InputSpec(height=height, width=width),
        "tasks": golden.tasks,
        "classes": CLASSES if golden.top_score is not None else [],
        "thresholds": Thresholds(score=0.2, drivable=0.5, lane=0.5),
        "max_detections": 0 if golden.top_score is None else MAX_DETECTIONS,
        "params": 10,
        "gmacs": 0.0,
        "training": Training(data=[], licence="Apache-2.0"),
        "lineage": [LineageStep(step="export", detail="written by hand")],
        "opset": 17,
        "exporter": {"onnx": onnx.__version__},
        "self_test": {"fp32": golden},
    }
    return Manifest(**(fields | changes))


def write_toy_bundle(
    path: Path,
    height: int = 96,
    width: int = 160,
    *,
    tasks: Sequence[Task] = TASKS,
    **changes: Any,
) -> Path:
    """Write the toy bundle with its true golden values and return `path`."""
    model = toy_model(height, width, tasks=tasks)
    engine = load_engine(
        Network(model, "fp32", height, width, MAX_DETECTIONS, tasks), "onnxruntime", threads=1
    )
    golden = measure_self_test(run_self_test(engine))
    engine.close()
    manifest = toy_manifest(model, height, width, golden, **changes)
    write_bundle(path, manifest, {"model.onnx": model})
    return path


def check_answers(frame: npt.NDArray[np.uint8], outputs: Outputs) -> None:
    """Assert that `outputs` are the toy network's for `frame`, uint8 `[H, W, 3]` RGB."""
    height, width, _ = frame.shape
    parts = frame.mean() / 255 / np.arange(1, MAX_DETECTIONS + 1)
    np.testing.assert_allclose(outputs.scores, parts[None], rtol=1e-5)
    corners = parts[:, None] * [0, 0, width, height]
    np.testing.assert_allclose(outputs.boxes, corners[None], rtol=1e-5)
    np.testing.assert_array_equal(outputs.labels, [[0, 1, 0, 1, 0]])
    np.testing.assert_array_equal(outputs.drivable[0], frame[..., 0])
    np.testing.assert_array_equal(outputs.lane[0], frame[..., 1])
