"""What is fuzzed: for each target, whole inputs to begin with, and how one is tried.

A try ends well, or with the error that the target's users would be told of. Anything else is a
finding.
"""

import io
import json
import random
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import yaml

from bench.fuzz.graphs import mutated_graph
from bench.fuzz.mutation import mutated
from mtc_perception.core.bundle import (
    Manifest,
    manifest_json,
    parse_manifest,
    read_bundle,
    sha256_hex,
)
from mtc_perception.core.engine import Network
from mtc_perception.core.images import decode_compressed
from mtc_perception.core.input_size import InputSize
from mtc_perception.core.truth import GroundTruth
from mtc_perception.datasets.layout import read_split, read_truth
from mtc_perception.engines.process_trial import run_trial
from mtc_perception.engines.tensorrt.key import EngineKey, Profile
from mtc_perception.engines.tensorrt.store import EngineStore
from mtc_perception.node.parameters import default_bundle
from mtc_perception.replay.recordings.recording import (
    EncodedPixels,
    Notes,
    RawPixels,
)
from mtc_perception.replay.recordings.sources import open_source
from mtc_perception.replay.recordings.writer import START_NS, BagWriter
from mtc_perception.replay.run.scenario import read_scenario
from mtc_perception.util.deadline import Deadline
from mtc_perception.util.errors import ImageError, UserError
from offline_compress.recipe.recipe import load_recipe

HANG_S = 5.0
"""A try that takes longer is a finding."""
TRIAL_S = 60.0
"""Same, of a try that starts a process."""
SIZE = (48, 64)
"""Height and width of the images in recordings and data sets."""

Try = Callable[[bytes], bool]
"""Tries an input: whether it was accepted, or refused with words for users."""


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that reads what others have made."""

    name: str
    seeds: Callable[[Path], list[bytes]]
    """Whole inputs, made in an empty folder."""
    trying: Callable[[Path], AbstractContextManager[Try]]
    """In an empty folder: a function that tries one input and returns, or raises a finding."""
    mutate: Callable[[Sequence[bytes], random.Random], bytes] = mutated
    hang_s: float = HANG_S
    share: float = 1.0
    """Of the inputs that others get."""


def _accepted(reads: Callable[[], object]) -> bool:
    """Whether that goes without an error; one that users are told of is none to look into."""
    try:
        reads()
    except (UserError, ImageError):
        return False
    return True


def _alone(reads: Callable[[Path, bytes], object]) -> Callable[[Path], AbstractContextManager[Try]]:
    """For targets that need nothing between two tries."""

    @contextmanager
    def trying(folder: Path) -> Iterator[Try]:
        yield lambda data: _accepted(lambda: reads(folder, data))

    return trying


def _file(name: str, reads: Callable[[Path], object]) -> Callable[[Path, bytes], None]:
    """Reads the input as a file of this name in a folder."""

    def written(folder: Path, data: bytes) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        reads(path)

    return written


def small_image(index: int = 0) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    height, width = SIZE
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([4 * x, 5 * y, x * y + 40 * index], axis=-1).astype(np.uint8)


def image_files(folder: Path) -> list[bytes]:
    """JPEG, PNG and WebP, colour and grey, and with more in them than pixels."""
    image = small_image()
    files = [cv2.imencode(suffix, image)[1].tobytes() for suffix in (".jpg", ".png", ".webp")]
    files.append(cv2.imencode(".jpg", image[..., 0])[1].tobytes())
    large = cv2.resize(image, (800, 600))
    files.append(cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes())
    turned = b"\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    exif = b"\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0" + turned
    files.append(files[0][:2] + exif + files[0][2:])
    return files


def _read_image(folder: Path, data: bytes) -> None:
    for fit in (InputSize(12, 16), None):
        decode_compressed(data, fit)


def _masks(folder: Path) -> list[bytes]:
    mask = np.zeros(SIZE, np.uint8)
    mask[20:] = 255
    return [cv2.imencode(".png", mask)[1].tobytes()]


def _manifest() -> Manifest:
    return read_bundle(default_bundle()).manifest


def _manifests(folder: Path) -> list[bytes]:
    return [manifest_json(_manifest())]


def _bundles(folder: Path) -> list[bytes]:
    """Zipped, with little in place of its networks."""
    manifest = _manifest()
    content = {
        one.file: b"\x08\x07network " + name.encode() for name, one in manifest.variants.items()
    }
    variants = {
        name: one.model_copy(update={"sha256": sha256_hex(content[one.file])})
        for name, one in manifest.variants.items()
    }
    content["manifest.json"] = manifest_json(manifest.model_copy(update={"variants": variants}))
    zips = []
    for method, prefix in ((zipfile.ZIP_DEFLATED, ""), (zipfile.ZIP_STORED, "net.mtc/")):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", method) as archive:
            for name, data in content.items():
                archive.writestr(prefix + name, data)
        zips.append(packed.getvalue())
    return zips


def _read_bundle(path: Path) -> None:
    bundle = read_bundle(path)
    for variant in bundle.manifest.variants:
        bundle.model_bytes(variant)


def _engine_key() -> EngineKey:
    profile = Profile(1, *SIZE)
    gpu = ("NVIDIA Orin", 16, 30000, ("sm87",))
    return EngineKey("0" * 64, "fp16", profile, "tensorrt", "10.13.3.9", *gpu)


def _records(folder: Path) -> list[bytes]:
    EngineStore(folder / "store").put(_engine_key(), b"engine", {"seconds": 12.5})
    return [path.read_bytes() for path in (folder / "store").glob("*.json")]


@contextmanager
def _store(folder: Path) -> Iterator[Try]:
    """A store with two engines; the record of one of them is the input."""
    store = EngineStore(folder / "store")
    key = _engine_key()
    store.put(key, b"engine", {})
    record = store.entries()[0].record_path
    store.put(replace(key, precision="fp32"), b"other engine", {})

    def read() -> None:
        for entry in store.entries():
            store.read(entry)
        store.find(key)

    def once(data: bytes) -> bool:
        record.write_bytes(data)
        return _accepted(read) and not store.outdated()

    yield once


def _recipes(folder: Path) -> list[bytes]:
    recipes = Path(__file__).resolve().parents[2] / "config" / "recipes"
    return [path.read_bytes() for path in sorted(recipes.glob("*.yaml"))]


def _scenarios(folder: Path) -> list[bytes]:
    content = {
        "name": "night",
        "bundle": "net.mtc",
        "bags": [{"path": "drive.mcap", "topics": ["/camera/image_raw"], "labels": "labels"}],
        "engine": "auto",
        "seconds": 10.5,
        "limits": {"detection.recall": {"min": 0.5}, "latency_ms.end_to_end.p95": {"max": 40.0}},
    }
    return [yaml.safe_dump(content).encode(), json.dumps(content).encode()]


def _boxes_text(folder: Path) -> list[bytes]:
    return [b"2 0.5 0.5 0.25 0.25\n3 0.1 0.2 0.05 0.1\n", b"9 0.5 0.5 0.2 0.2\r\n"]


def _coco(folder: Path) -> list[bytes]:
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [4.0, 5, 20, 10.5],
                "iscrowd": 0,
            },
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 1},
        ],
        "categories": [{"id": 1, "name": "vehicle"}],
    }
    return [json.dumps(content).encode(), json.dumps(content, indent=1).encode()]


def _scalabel(folder: Path) -> list[bytes]:
    frame = {
        "name": "a",
        "frames": [
            {
                "timestamp": 10000,
                "objects": [
                    {"category": "car", "id": 0, "box2d": {"x1": 4, "y1": 5, "x2": 24.5, "y2": 15}},
                    {
                        "category": "area/drivable",
                        "id": 1,
                        "poly2d": [[0, 40, "L"], [30, 20, "L"], [60, 40, "C"], [50, 47, "C"]],
                    },
                    {
                        "category": "lane/single white",
                        "id": 2,
                        "poly2d": [[10.5, 47, "L"], [30, 22, "L"]],
                    },
                ],
            }
        ],
    }
    return [json.dumps(frame).encode(), json.dumps(frame, indent=1).encode()]


def _data_set(images: str, label: str, others: tuple[str, ...]) -> Callable[[Path, bytes], None]:
    """A data set of one image with this label file; masks where its layout wants them."""

    def reads(folder: Path, data: bytes) -> None:
        place = folder / images / "a.png"
        if not place.exists():
            place.parent.mkdir(parents=True)
            cv2.imwrite(str(place), small_image())
            for other in others:
                (folder / other).parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / other), np.zeros(SIZE, np.uint8))
        (folder / label).parent.mkdir(parents=True, exist_ok=True)
        (folder / label).write_bytes(data)
        for sample in read_split(folder, "val", []):
            read_truth(sample, SIZE)

    return reads


def _recording(folder: Path) -> Path:
    height, width = SIZE
    bag = folder / "drive"
    empty = np.zeros(SIZE, np.bool_)
    truth = GroundTruth(np.array([[4, 5, 24, 15]], np.float32), None, empty, empty)
    with BagWriter(bag, {"made for": "fuzzing"}) as writer:
        for index in range(3):
            image, stamp_ns = small_image(index), START_NS + index * 33_000_000
            jpeg = cv2.imencode(".jpg", image)[1].tobytes()
            writer.image("/a/image_raw/compressed", stamp_ns, "a", EncodedPixels("jpeg", jpeg))
            pixels = RawPixels("bgr8", height, width, 3 * width, image.reshape(-1))
            writer.image("/b/image_raw", stamp_ns, "b", pixels)
            writer.truth(stamp_ns, "a", truth)
    return bag


def _mcap(folder: Path) -> list[bytes]:
    return [next(_recording(folder).glob("*.mcap")).read_bytes()]


def _sqlite(folder: Path) -> list[bytes]:
    """The same recording as a database."""
    from rosbags.rosbag2 import Reader, StoragePlugin, Writer

    out = folder / "database"
    with (
        Reader(_recording(folder)) as reader,
        Writer(out, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer,
    ):
        connections = {
            one.id: writer.add_connection(
                one.topic,
                one.msgtype,
                msgdef=one.msgdef.data,
                rihs01=one.digest,
                serialization_format="cdr",
            )
            for one in reader.connections
        }
        for connection, stamp_ns, data in reader.messages():
            writer.write(connections[connection.id], stamp_ns, data)
    return [next(out.glob("*.db3")).read_bytes()]


def _metadata(folder: Path) -> list[bytes]:
    return [(_recording(folder) / "metadata.yaml").read_bytes()]


def _read_recording(path: Path) -> None:
    for topic in ("/a/image_raw/compressed", "/b/image_raw"):
        for frame, _ in open_source(path, topic).labelled_frames(Notes()):
            frame.pixels.decode()


@contextmanager
def _metadata_of_a_recording(folder: Path) -> Iterator[Try]:
    bag = _recording(folder)

    def once(data: bytes) -> bool:
        (bag / "metadata.yaml").write_bytes(data)
        return _accepted(lambda: _read_recording(bag))

    yield once


def _graphs(folder: Path) -> list[bytes]:
    bundle = read_bundle(default_bundle())
    return [bundle.model_bytes(name) for name in bundle.manifest.variants if "int8" in name]


def _try_graph(folder: Path, data: bytes) -> None:
    manifest = _manifest()
    network = Network(
        data, "int8", manifest.input.height, manifest.input.width, manifest.max_detections
    )
    run_trial(network, "onnxruntime", deadline=Deadline(TRIAL_S / 2))


def file_targets() -> list[Target]:
    """Everything that reads files; `messages.py` has those of the node."""
    masks = ("seg-drivable-10/labels/val/a.png", "seg-lane-11/labels/val/a.png")
    return [
        Target("image file", image_files, _alone(_read_image)),
        Target("manifest", _manifests, _alone(lambda _, data: parse_manifest(data) and None)),
        Target("bundle", _bundles, _alone(_file("net.mtc", _read_bundle))),
        Target("engine record", _records, _store),
        Target("recipe", _recipes, _alone(_file("recipe.yaml", load_recipe))),
        Target(
            "scenario", _scenarios, _alone(_file("one.yaml", lambda path: read_scenario(path, {})))
        ),
        Target(
            "boxes as text",
            _boxes_text,
            _alone(_data_set("images/val", "detection-object/labels/val/a.txt", masks)),
        ),
        Target("COCO", _coco, _alone(_data_set("images/val", "det/val.json", ()))),
        Target(
            "Scalabel",
            _scalabel,
            _alone(_data_set("images/100k/val", "labels/100k/val/a.json", ())),
        ),
        Target("mask", _masks, _alone(_data_set("images/val", "drivable/val/a.png", ()))),
        Target("MCAP", _mcap, _alone(_file("drive.mcap", _read_recording)), share=0.5),
        Target("SQLite bag", _sqlite, _alone(_file("drive.db3", _read_recording)), share=0.5),
        Target("bag metadata", _metadata, _metadata_of_a_recording, share=0.2),
        Target(
            "ONNX graph",
            _graphs,
            _alone(_try_graph),
            mutate=mutated_graph,
            hang_s=TRIAL_S,
            share=0.01,
        ),
    ]
