"""A network and its map become a bundle."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import onnx
import torch
from torch import nn

from mtc_perception import __version__
from mtc_perception.core.bundle import (
    InputSpec,
    LineageStep,
    Manifest,
    Training,
    Variant,
    sha256_hex,
    write_bundle,
)
from mtc_perception.core.self_test import measure_self_test, run_self_test, self_test_frame
from mtc_perception.engines.load import load_engine
from mtc_perception.util.errors import UserError
from offline_compress.channels.description import calling, named_tensors
from offline_compress.export import OPSET, network_of
from offline_compress.quantization.variant_data import VariantData, add_variants_of
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


def wrap(given: onnx.ModelProto, name: str, described: NetworkMap) -> tuple[bytes, onnx.ModelProto]:
    """The bundle's graph around a network, and that network alone, its sizes fixed.

    Raises UserError, which calls it `name`, if it cannot be used or is not what the map says.
    """
    wanted = described.input
    network, height, width = fixed(given, name, wanted.height, wanted.width)
    opset = opset_of(network)
    image = torch.from_numpy(self_test_frame(height, width))[None]
    before = Before(wanted, input_dtype(network))
    found = answers(network, before(image).numpy())
    check_outputs(found, described)
    names = described.outputs
    if broken := [one for one in names if found[one].isnan().any()]:
        raise UserError(
            f"{name}: output {broken[0]} has values that are no numbers, for an image as cameras "
            "give it: export the network anew, from weights that are finite"
        )
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


def wrap_file(
    path: Path, described: NetworkMap, out: Path, name: str, training: Training
) -> Manifest:
    """Write the network of an ONNX file as a bundle with one fp32 variant; returns its manifest.

    Raises UserError if the file cannot be used or is not what the map says, and EngineError if ONNX
    Runtime does not run the graph.
    """
    given = read_network(path)
    made_of = LineageStep(
        step="export",
        detail=f"{path.name} wrapped, with pre- and post-processing inside the graph; the"
        " file's sha256",
        sha256=sha256_hex(path.read_bytes()),
    )
    return _wrap_bundle(given, str(path), described, out, name, training, made_of)


def wrap_module(
    model: nn.Module,
    image: torch.Tensor,
    described: NetworkMap,
    out: Path,
    name: str | None = None,
    licence: str = "not stated",
    trained_on: Sequence[str] = (),
    data: Path | None = None,
) -> Manifest:
    """Write a network of any make as a bundle; returns its manifest.

    Args:
        model: reads one image [1, 3, H, W]; stays as it is.
        image: one of the size that the bundle shall have; what it shows means nothing.
        described: what input and outputs mean. The name of an output is its place in what the
            network returns: `lane` of a dict, `output.1` of a tuple, `heads.0` of a tuple in a
            dict, `output` if it is all.
        out: the bundle to write, `NAME.mtc` or `NAME.mtc.zip`.
        name: of the network; by default that of its class.
        licence: of its weights.
        trained_on: data that they learnt from.
        data: labelled data set: the bundle gets float16 and int8 variants beside the one in
            float32, calibrated on its split `train` and judged on `val`.

    Raises UserError for a network that does not export to ONNX, whose weights are not finite, or
    that is not what the map says, and EngineError if ONNX Runtime does not run the graph.
    """
    shape = list(image.shape) if isinstance(image, torch.Tensor) else type(image).__name__
    if not isinstance(shape, list) or len(shape) != 4 or shape[:2] != [1, 3]:
        raise UserError(f"image is {shape}, not a tensor [1, 3, H, W]")
    variants = VariantData.of(data, described.class_map) if data else None
    network, own = deepcopy(model).cpu().eval(), type(model).__name__
    if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
        raise UserError(f"{own} has weights that are not finite")
    picked = _Picked(network, described.outputs)
    with calling(f"{own}, on an image {shape}"):
        found = picked.found(image)
    check_outputs(found, described)
    try:
        given = exported(picked, [image], ["image"], described.outputs, OPSET)
    except Exception as error:  # of the exporter and of the network, of any type
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{own} does not export to ONNX: {reason}") from error
    made_of = LineageStep(
        step="export",
        detail=f"{own} of PyTorch wrapped, with pre- and post-processing inside the graph; the"
        " sha256 of its ONNX form",
        sha256=sha256_hex(given.SerializeToString(deterministic=True)),
    )
    training = Training(data=list(trained_on), licence=licence)
    manifest = _wrap_bundle(given, own, described, out, name or own, training, made_of)
    return add_variants_of(variants, out) if variants else manifest


class _Picked(nn.Module):
    """Some outputs of a network, by their places."""

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self._network, self._names = network, names

    @torch.no_grad()
    def found(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """All of them."""
        return dict(named_tensors(self._network(image)))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.found(image)
        return tuple(found[name] for name in self._names)


def _wrap_bundle(
    given: onnx.ModelProto,
    of: str,
    described: NetworkMap,
    out: Path,
    name: str,
    training: Training,
    made_of: LineageStep,
) -> Manifest:
    graph, alone = wrap(given, of, described)
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
        lineage=[made_of],
        opset=opset_of(alone),
        exporter={"torch": torch.__version__, "onnx": onnx.__version__},
        self_test={"fp32": golden},
    )
    write_bundle(out, manifest, {_FILE: graph})
    return manifest
