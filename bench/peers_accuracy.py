"""`python -m bench.peers_accuracy PEERS`: public networks on our frames, by our metrics.

The networks are no part of this repository: PEERS is a folder with their ONNX files (`PUBLIC`).
Each is fed as its authors do, and scored in the tasks it does like any network of ours.
"""

import argparse
import statistics
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
from rich.console import Console

from bench.common import write_result
from mtc_perception.core.bundle import sha256_hex
from mtc_perception.core.engine import Outputs
from mtc_perception.core.images import SourceImage
from mtc_perception.core.letterbox import PAD_VALUE, Letterbox
from mtc_perception.core.perception import SCORE_FLOOR, TASKS
from mtc_perception.datasets.layout import Sample
from mtc_perception.metrics.figures import figures, nested
from mtc_perception.util.errors import UserError
from mtc_perception.util.interrupts import handle_interrupts
from mtc_perception.util.progress import Progress
from offline_compress.data.labelled import labelled_split
from offline_compress.evaluation.accuracy import evaluate_engine
from offline_compress.evaluation.evaluation_report import TextTable
from offline_compress.evaluation.latency import THREADS
from offline_compress.evaluation.subject import CHECKPOINT_THRESHOLDS, open_subject
from offline_compress.recipe.parts import DataSource
from offline_compress.report.compression_report import terminal_table
from offline_compress.study.folds import HELD_OUT, folds_of, judged_sets
from offline_compress.study.study import Study, load_study

NAME = "peers_accuracy"
FIGURES = figures(
    *("detection.map50", "detection.map50_95"),
    *("detection.recall_at_best_f1", "detection.precision_at_best_f1"),
    *("drivable.miou", "lane.iou"),
)
MAX_DETECTIONS = 100
STRIDES = (8, 16, 32)
COCO_VEHICLES = [2, 5, 7]
"""Car, bus and truck among the classes of COCO."""
NMS_IOU = 0.65
"""As in YOLOX's own evaluation."""
TIMED_RUNS = 60


@dataclass(frozen=True, slots=True)
class PublicNetwork:
    """A network of others, and how it is fed."""

    name: str
    file: str
    tasks: tuple[str, ...]
    engine: "type[_PeerEngine]"


class _PeerEngine(ABC):
    """What all peers share behind the protocol of `mtc_perception.core.engine`: one thread of ONNX
    Runtime, and a pixel buffer."""

    name, precision = "onnxruntime", "fp32"
    device = f"ONNX Runtime {onnxruntime.__version__}, 1 thread"

    def __init__(self, graph: bytes, height: int, width: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
        self.input = np.zeros((1, height, width, 3), np.uint8)
        self._letterbox = Letterbox.fit(height, width, height, width)
        self._raw: list[npt.NDArray[np.float32]] = []

    def prepare(self, image: SourceImage, letterbox: Letterbox) -> None:
        """Letterbox `image` into `input`."""
        letterbox.write(image, self.input[0])
        self._letterbox = letterbox

    def start(self) -> None:
        """Run the network, and wait."""
        tensor = self._tensor(self.input[0])
        [name] = [one.name for one in self._session.get_inputs()]
        self._raw = self._session.run(None, {name: tensor.transpose(2, 0, 1)[None]})

    def wait(self) -> Outputs:
        """The outputs of the last `start`."""
        return self._outputs(self._raw, self._letterbox)

    def close(self) -> None:
        """Forget the outputs; there is nothing else to release."""
        self._raw = []

    @abstractmethod
    def _tensor(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Letterboxed RGB [H, W, 3] as the network wants it, [H, W, 3]."""

    @abstractmethod
    def _outputs(self, raw: list[npt.NDArray[np.float32]], letterbox: Letterbox) -> Outputs:
        """What the network answered, in pixels of `input`."""


class TwinLite(_PeerEngine):
    """TwinLiteNet+: RGB in 0..1; logits of background and foreground for two masks."""

    def __init__(self, graph: bytes) -> None:
        super().__init__(graph, 384, 640)

    def _tensor(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return pixels.astype(np.float32) / 255

    def _outputs(self, raw: list[npt.NDArray[np.float32]], letterbox: Letterbox) -> Outputs:
        drivable, lane = (foreground(logits) for logits in raw)
        boxes, scores = np.zeros((1, 1, 4), np.float32), np.zeros((1, 1), np.float32)
        return Outputs(boxes, scores, np.zeros((1, 1), np.int32), drivable, lane)


class Yolox(_PeerEngine):
    """YOLOX: BGR in 0..255, padded at right and below; boxes on a grid, not decoded."""

    def __init__(self, graph: bytes) -> None:
        super().__init__(graph, 416, 416)

    def _tensor(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        box = self._letterbox
        moved = np.full_like(pixels, PAD_VALUE)
        moved[: box.height, : box.width] = pixels[
            box.top : box.top + box.height, box.left : box.left + box.width
        ]
        return moved[..., ::-1].astype(np.float32)

    def _outputs(self, raw: list[npt.NDArray[np.float32]], letterbox: Letterbox) -> Outputs:
        _, height, width, _ = self.input.shape
        boxes, scores = vehicles(raw[0][0], height, width)
        boxes = boxes + np.array([letterbox.left, letterbox.top] * 2, np.float32)
        if not len(scores):
            boxes, scores = np.zeros((1, 4), np.float32), np.zeros(1, np.float32)
        nothing = np.zeros((1, height, width), np.uint8)
        labels = np.zeros((1, len(scores)), np.int32)
        return Outputs(boxes[None], scores[None], labels, nothing, nothing)


PUBLIC = (
    PublicNetwork("TwinLiteNet+ nano", "twinlitenetplus_nano.onnx", ("drivable", "lane"), TwinLite),
    PublicNetwork(
        "TwinLiteNet+ small", "twinlitenetplus_small.onnx", ("drivable", "lane"), TwinLite
    ),
    PublicNetwork("YOLOX-Nano", "yolox_nano.onnx", ("detection",), Yolox),
)


def foreground(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Logits [1, 2, H, W] of background and foreground -> probability x 255, uint8 [1, H, W]."""
    share = 1 / (1 + np.exp(np.clip(logits[:, 0] - logits[:, 1], -80, 80)))
    return (255 * share + 0.5).astype(np.uint8)


def vehicles(
    raw: npt.NDArray[np.float32], height: int, width: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """YOLOX's raw output [n, 85] for an input of that size -> vehicles [k, 4] x1, y1, x2, y2 in
    its pixels and scores [k], descending, duplicates suppressed."""
    cells, steps = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: height // stride, : width // stride]
        cells.append(np.stack((x, y), -1).reshape(-1, 2))
        steps.append(np.full((cells[-1].shape[0], 1), stride))
    grid, step = np.concatenate(cells), np.concatenate(steps)
    centre, size = (raw[:, :2] + grid) * step, np.exp(raw[:, 2:4]) * step
    scores = raw[:, 4] * raw[:, 5:][:, COCO_VEHICLES].max(1)
    corners = np.concatenate((centre - size / 2, size), 1)
    kept = np.array(
        cv2.dnn.NMSBoxes(corners.tolist(), scores.tolist(), SCORE_FLOOR, NMS_IOU), np.intp
    )[:MAX_DETECTIONS]
    boxes = np.concatenate((centre - size / 2, centre + size / 2), 1)
    return boxes[kept].astype(np.float32), scores[kept].astype(np.float32)


def peers_accuracy(
    folder: Path,
    models: Sequence[Path],
    study: Path | None,
    data: Sequence[DataSource],
    timed: bool,
) -> dict[str, Any]:
    """Accuracy of every public network in `folder` on a study's frames and on `data`, and of our
    `models` on `data` alone: they may have learnt from the study's drives.

    Raises UserError if a network or a data set is missing.
    """
    ours_on = {source.title: labelled_split(source, "evaluate on") for source in data}
    samples = (reported(load_study(study)) if study else {}) | ours_on
    graphs = {peer.name: _read(folder / peer.file) for peer in PUBLIC}
    ours = [open_subject(model) for model in models]
    networks: dict[str, Any] = {}
    content: dict[str, Any] = {
        "images": {name: len(one) for name, one in samples.items()},
        "networks": networks,
    }
    with Progress(alone=True) as progress:
        for peer in PUBLIC:
            graph = graphs[peer.name]
            found = _on_each(
                peer.engine(graph), MAX_DETECTIONS, peer.tasks, samples, peer.name, progress
            )
            networks[peer.name] = {"sha256": sha256_hex(graph), "sets": found}
        for one in ours:
            name = f"{one.identity['name']}, {one.engine.precision}"
            found = _on_each(one.engine, one.max_detections, TASKS, ours_on, name, progress)
            networks[name] = {"sha256": one.identity["sha256"], "sets": found}
        if timed:
            times = latencies(graphs, progress.counter("timing"))
            for name, time_ms in times.items():
                networks[name]["latency_ms"] = {"onnxruntime": time_ms}
            content["latency_conditions"] = {"batch": 1, "threads": THREADS, "runs": TIMED_RUNS}
    return content


def reported(study: Study) -> dict[str, list[Sample]]:
    """The frames that a study reports, by the names that it gives the sets."""
    found: dict[str, list[Sample]] = {}
    for fold in folds_of(study.held_out):
        sets = judged_sets(study, fold, ["vehicle"])
        own = sets.pop(HELD_OUT)
        found.setdefault(study.held_out.root.resolve().name, []).extend(own)
        found |= sets
    return found


def latencies(
    graphs: Mapping[str, bytes], count: Callable[[float, float], None]
) -> dict[str, float]:
    """Median ms of one inference on ONNX Runtime by name, all in turn: on an idle machine."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    sessions = {
        name: onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
        for name, graph in graphs.items()
    }
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for run in range(TIMED_RUNS):
        for name, session in sessions.items():
            [feed] = session.get_inputs()
            image = {feed.name: np.full(feed.shape, 0.5, np.float32)}
            session.run(None, image)  # the network before has just had the caches
            begin = time.perf_counter()
            session.run(None, image)
            times[name].append(1e3 * (time.perf_counter() - begin))
        count(run + 1, TIMED_RUNS)
    return {name: round(statistics.median(one), 2) for name, one in times.items()}


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"{path} does not exist: PEERS is a folder with it")
    return path.read_bytes()


def _on_each(
    engine: Any,
    most: int,
    tasks: Sequence[str],
    samples: Mapping[str, list[Sample]],
    what: str,
    progress: Progress,
) -> dict[str, Any]:
    found = {}
    for name, one in samples.items():
        counted = progress.track(one, f"{what} on {name}", unit="img")
        metrics = evaluate_engine(engine, counted, CHECKPOINT_THRESHOLDS, most).metrics.to_json()
        known = [f for f in FIGURES if f.task in tasks and f.task in metrics]
        found[name] = nested(known, lambda figure, m=metrics: figure.of(m))  # type: ignore[misc]
    return found


def table(content: dict[str, Any]) -> TextTable:
    """A section per set, a row per network."""
    sections = []
    for name, images in content["images"].items():
        rows = []
        for network, one in content["networks"].items():
            values = [figure.of(one["sets"].get(name, {})) for figure in FIGURES]
            if any(value is not None for value in values):
                cells = ["" if value is None else f"{value:.3f}" for value in values]
                rows.append([f"{name}, {images} images", network, *cells])
        sections.append(rows)
    columns = ["frames", "network", *(figure.title for figure in FIGURES)]
    return TextTable("Accuracy on the same frames", columns, sections)


def main(arguments: Sequence[str] | None = None) -> int:
    """0, 2 for a mistake of the user's, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers_accuracy",
        description="Accuracy and latency of public networks, and ours, on the same frames.",
    )
    parser.add_argument("peers", type=Path, help="folder with the ONNX files of the others")
    parser.add_argument("--study", type=Path, help="study whose frames they are evaluated on")
    parser.add_argument(
        "--data", type=Path, action="append", default=[], help="data set; may be repeated"
    )
    parser.add_argument("--split", default="val", help="of every data set (%(default)s)")
    parser.add_argument(
        "--model", type=Path, action="append", default=[], help="bundle of ours, on --data alone"
    )
    parser.add_argument(
        "--latency",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="time them as well, in turn: on an idle machine (%(default)s)",
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="(%(default)s)")
    options = parser.parse_args(arguments)
    if not (options.study or options.data):
        parser.error("give --study or --data")
    sources = [DataSource(root=root, split=options.split) for root in options.data]
    console = Console()
    handle_interrupts()
    try:
        content = peers_accuracy(
            options.peers, options.model, options.study, sources, options.latency
        )
        console.print(terminal_table(table(content)))
        path = write_result(options.results, NAME, content)
        console.print(f"wrote {path}", highlight=False)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
