"""An ONNX file and its map become a bundle; then, with labelled images, its variants."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import onnx
import torch

from mtc_perception import __version__
from mtc_perception.core.bundle import (
    Bundle,
    InputSpec,
    LineageStep,
    Manifest,
    Training,
    Variant,
    sha256_hex,
    write_bundle,
)
from mtc_perception.core.self_test import measure_self_test, run_self_test, self_test_frame
from mtc_perception.datasets.layout import Sample
from mtc_perception.engines.load import load_engine
from mtc_perception.util.progress import NamedCount
from offline_compress.data.labelled import evenly
from offline_compress.evaluation.subject import CHECKPOINT_THRESHOLDS
from offline_compress.export import network_of
from offline_compress.quantization.activation_ranges import calibration_frames
from offline_compress.quantization.assess import FP32
from offline_compress.quantization.bundling import add_variants
from offline_compress.quantization.quantise import evaluator, quantise
from offline_compress.recipe.compression import Quantisation
from offline_compress.wrapping.costs import count_gmacs, count_parameters
from offline_compress.wrapping.decoders import check_outputs
from offline_compress.wrapping.frame import Before, Behind
from offline_compress.wrapping.graph import (
    GIVEN,
    answers,
    exported,
    fixed,
    input_dtype,
    joined,
    opset_of,
    read_network,
)
from offline_compress.wrapping.network_map import NetworkMap

_FILE = "model.onnx"


def wrap(path: Path, described: NetworkMap) -> tuple[bytes, onnx.ModelProto]:
    """The bundle's graph around the network of an ONNX file, and that network alone, its sizes
    fixed.

    Raises UserError if the file cannot be used, or is not what the map says.
    """
    given = described.input
    network, height, width = fixed(read_network(path), path, given.height, given.width)
    opset = opset_of(network)
    image = torch.from_numpy(self_test_frame(height, width))[None]
    before = Before(given, input_dtype(network))
    found = answers(network, before(image).numpy())
    check_outputs(found, described)
    names = described.outputs
    behind = Behind(described, names, (height, width))
    examples = [found[name] for name in names]
    shapes = {
        name: list(one.shape) for name, one in zip(behind.outputs, behind(*examples), strict=True)
    }
    whole = joined(
        exported(before, [image], ["image"], ["pixels"], opset),
        network,
        exported(behind, examples, [f"{GIVEN}{name}" for name in names], behind.outputs, opset),
        shapes,
    )
    return whole.SerializeToString(deterministic=True), network


def wrap_bundle(
    path: Path, described: NetworkMap, out: Path, name: str, training: Training
) -> Manifest:
    """Write the network of an ONNX file as a bundle with one fp32 variant; returns its manifest.

    Raises UserError as `wrap`, and EngineError if ONNX Runtime does not run the graph.
    """
    graph, alone = wrap(path, described)
    network = network_of(graph, "fp32")
    engine = load_engine(network, "onnxruntime")
    golden = measure_self_test(run_self_test(engine))
    engine.close()
    detection = described.detection
    manifest = Manifest(
        name=name,
        version=__version__,
        variants={
            "fp32": Variant(
                file=_FILE,
                sha256=sha256_hex(graph),
                precision="fp32",
                engines=["tensorrt", "openvino", "onnxruntime"],
            )
        },
        input=InputSpec(height=network.height, width=network.width, fit=described.input.fit),
        tasks=list(described.tasks),
        classes=list(detection.classes) if detection else [],
        thresholds=described.thresholds,
        max_detections=network.max_detections,
        params=count_parameters(alone),
        gmacs=round(count_gmacs(alone), 3),
        training=training,
        lineage=[
            LineageStep(
                step="export",
                detail=f"{path.name} wrapped, with pre- and post-processing inside the graph; the"
                " file's sha256",
                sha256=sha256_hex(path.read_bytes()),
            )
        ],
        opset=opset_of(alone),
        exporter={"torch": torch.__version__, "onnx": onnx.__version__},
        self_test={"fp32": golden},
    )
    write_bundle(out, manifest, {_FILE: graph})
    return manifest


def add_quantised(
    bundle: Bundle,
    calibration: Sequence[Sample],
    judged: Sequence[Sample],
    settings: Quantisation,
    measured_on: str,
    count: NamedCount,
) -> Manifest:
    """Add the variants of `settings` to a bundle, calibrated on images of `calibration` and judged
    on labelled ones of `judged`. Raises UserError if a runtime does not run a variant."""
    images = evenly(calibration, settings.images)
    made = quantise(
        bundle.model_bytes(FP32),
        list(calibration_frames(images, bundle.manifest.input.size)),
        settings.variants,
        evaluator(
            {"judged": evenly(judged, settings.judged_images)},
            CHECKPOINT_THRESHOLDS,
            bundle.manifest,
        ),
        settings,
        count,
    )
    return add_variants(bundle, made, bundle.path, measured_on, partial(count, "timing"))
