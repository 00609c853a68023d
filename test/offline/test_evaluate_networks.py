"""Real networks are scored alike as checkpoint, bundle and in training, on every engine."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mtc_perception.core.bundle import Thresholds
from mtc_perception.core.images import SourceImage
from mtc_perception.datasets.layout import read_split
from mtc_perception.util.errors import UserError
from offline_compress.evaluation.accuracy import evaluate_engine, evaluate_subject, infer
from offline_compress.evaluation.subject import CHECKPOINT_THRESHOLDS, open_subject
from offline_compress.evaluation.torch_engine import TorchEngine
from offline_compress.export import MAX_DETECTIONS, export_bundle
from offline_compress.models.registry import ModelSpec, load_checkpoint, load_spec, save_checkpoint
from support.checkout import ROOT, SHIPPED
from support.labelled_roads import HEIGHT, WIDTH, DataSet, road
from support.random_norms import randomise_norms
from support.tiny_networks import TINY_QUERIES

CAMVID = ROOT.parent / "shared" / "data" / "camvid"


@pytest.fixture(scope="module")
def query_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose detections are those of queries, with spread-out answers."""
    torch.manual_seed(1)
    arguments = TINY_QUERIES | {"queries": 120, "segmentation": "stride4"}
    spec = ModelSpec("tiny_queries", "rmt_ppad", arguments, ["vehicle"], HEIGHT, WIDTH)
    model = spec.build().eval()
    randomise_norms(model)
    # As initialised all queries answer nearly the same: rounding would decide their order.
    for parameter in model.detection_head.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0, 0.2)
    path = tmp_path_factory.mktemp("queries") / "best"
    save_checkpoint(path, spec, model)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["convolutional", "query"])
def test_checkpoint_and_bundle_agree(
    kind: str, checkpoint: Path, query_checkpoint: Path, data: DataSet
) -> None:
    # Labels are what the network itself says, a little worn: neither all right nor all wrong.
    path = {"convolutional": checkpoint, "query": query_checkpoint}[kind]
    subject = open_subject(path)
    random = np.random.default_rng(1)
    middle: list[float] = []
    scores: list[float] = []
    for index in range(4):
        blocks = random.integers(0, 256, (12, 20, 3), dtype=np.uint8)
        rgb = cv2.resize(blocks, (150, 110), interpolation=cv2.INTER_CUBIC)
        frame = infer(subject.engine, SourceImage(rgb, "rgb"), 100)
        drivable, lane = (
            np.roll(mask >= np.median(mask), 4, axis=1) for mask in (frame.drivable, frame.lane)
        )
        large = (frame.boxes[:, 2:] - frame.boxes[:, :2]).min(axis=1) > 4
        # Labels that these boxes overlap by 0.73, well between two of COCO's ten thresholds.
        worn = frame.boxes[large][:12:2].astype(float)
        worn[:, 2] += (worn[:, 2] - worn[:, 0]) * (1 / 0.73 - 1)
        data.add(f"frame{index}", rgb, drivable, lane, worn)
        middle = [float(np.median(mask)) / 255 for mask in (frame.drivable, frame.lane)]
        scores = [float(frame.scores[5]) * 0.999]
    thresholds = Thresholds(score=scores[0], drivable=middle[0], lane=middle[1])
    bundle = data.root.parent / "exported.mtc"
    export_bundle(path, bundle, thresholds, None)
    samples = read_split(data.root, "val")
    subject = open_subject(path, **thresholds.model_dump())
    expected = evaluate_subject(subject, samples).metrics.to_json()
    assert 0.3 < expected["detection"]["recall"] <= 1.0
    assert 0.02 < expected["detection"]["map50"] < 0.98
    assert expected["detection"]["recall_at_threshold"] > 0.02
    assert 0.3 < expected["drivable"]["miou"] < 0.99
    for engine in ("onnxruntime", "openvino"):
        found = evaluate_subject(open_subject(bundle, engine), samples).metrics.to_json()
        assert found.keys() == expected.keys()
        for task, figures in expected.items():
            assert found[task] == pytest.approx(figures, abs=0.002), (engine, task)


@pytest.mark.skipif(not CAMVID.is_dir(), reason="needs ../shared/data/camvid")
def test_engines_agree_on_real_roads() -> None:
    samples = read_split(CAMVID, "val")[::14]
    first, second = (
        evaluate_subject(open_subject(SHIPPED, engine, "fp32"), samples).metrics.to_json()
        for engine in ("onnxruntime", "openvino")
    )
    assert first["detection"]["map50"] > 0.5
    assert first["drivable"]["miou"] > 0.8
    for task, figures in first.items():
        assert second[task] == pytest.approx(figures, abs=0.002), task


def test_a_checkpoint_may_be_asked_for_more_boxes_than_a_bundle_yields(
    query_checkpoint: Path, toy_bundle: Path
) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for asked, count in ((None, 100), (7, 7), (120, 120), (300, 120)):
        subject = open_subject(query_checkpoint, max_detections=asked)
        subject.engine.input[0] = rgb
        subject.engine.start()
        outputs = subject.engine.wait()
        assert outputs.scores.shape == (1, count)
        assert subject.max_detections == (asked or 100)
    assert open_subject(toy_bundle, "onnxruntime", max_detections=3).max_detections == 3
    with pytest.raises(UserError, match="yields 5 detections at most, not 6"):
        open_subject(toy_bundle, "onnxruntime", max_detections=6)


def test_a_network_in_training_is_scored_alike(checkpoint: Path, data: DataSet) -> None:
    rgb, drivable, lane, box = road()
    data.add("a", rgb, drivable, lane, [box])
    spec, model = load_spec(checkpoint), load_checkpoint(checkpoint)
    samples = read_split(data.root, "val")
    engine = TorchEngine(model, spec.height, spec.width)
    evaluation = evaluate_engine(engine, samples, CHECKPOINT_THRESHOLDS, MAX_DETECTIONS)
    result = evaluation.metrics.to_json()
    subject = open_subject(checkpoint / "model.safetensors")
    expected = evaluate_subject(subject, samples).metrics.to_json()
    assert result == expected
    assert result.keys() == {"detection", "drivable", "lane"}
    with torch.no_grad():  # Still an ordinary network: nothing was left in inference mode.
        model(torch.zeros(1, 3, spec.height, spec.width))


def test_scoring_is_exact_and_leaves_training_its_precision(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, model = load_spec(checkpoint), load_checkpoint(checkpoint)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    seen: list[bool] = []
    model.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    TorchEngine(model, spec.height, spec.width).start()
    assert torch.backends.cudnn.allow_tf32
    model(torch.zeros(1, 3, spec.height, spec.width))
    assert seen[-1]
    assert not any(seen[:-1])
