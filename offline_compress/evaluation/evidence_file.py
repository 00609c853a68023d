"""What every image says about a network's accuracy, in one file: two of them can be compared.

A NumPy archive (.npz): `stems` [n]; `objects` [n], -1 where vehicles are unlabelled; `detections`
[n], how many of `scores`, `right`, `ignored` and `labels` are of each image; `objects_by_class`
[n, classes]; `masks` [n, 3, 4], pixels as in
`MaskCounts` for drivable area, lane and widened lane label, -1 where unlabelled; `attributes` [n],
JSON objects of what is known of an image (weather, ...).
"""

import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np

from mtc_perception.metrics.detection import DetectionEvidence
from mtc_perception.metrics.masks import MaskCounts
from mtc_perception.metrics.tasks import ImageEvidence
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import write_bytes_atomic

EVIDENCE_FILE = "evidence.npz"
VERSION = 1
_MASKS = ("drivable", "lane", "lane_dilated")
_UNLABELLED = (-1, -1, -1, -1)


def write_evidence(
    path: Path,
    stems: Sequence[str],
    evidence: Sequence[ImageEvidence],
    attributes: Sequence[Mapping[str, str]] | None = None,
) -> None:
    """Write what the images say, in their order, atomically; the folder must exist."""
    known = [json.dumps(dict(one)) for one in attributes or [{}] * len(stems)]
    judged = [one.detection or _none() for one in evidence]
    masks = [
        [
            _UNLABELLED if (found := getattr(one, name)) is None else astuple(found)
            for name in _MASKS
        ]
        for one in evidence
    ]
    counts = [one.objects_by_class for one in judged]
    by_class = np.zeros((len(counts), max(map(len, counts), default=1)), np.int32)
    for image, of_image in enumerate(counts):
        by_class[image, : len(of_image)] = of_image
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        version=np.array(VERSION),
        stems=np.array(stems, np.str_),
        attributes=np.array(known, np.str_),
        objects=np.array([one.objects for one in judged], np.int32),
        detections=np.array([len(one.scores) for one in judged], np.int32),
        scores=np.concatenate([one.scores for one in judged] or [np.zeros(0, np.float32)]),
        right=np.concatenate([one.right for one in judged] or [np.zeros(0, np.uint16)]),
        ignored=np.concatenate([one.ignored for one in judged] or [np.zeros(0, np.uint16)]),
        labels=np.concatenate([one.labels for one in judged] or [np.zeros(0, np.uint16)]),
        objects_by_class=by_class,
        masks=np.array(masks, np.int64).reshape(-1, len(_MASKS), 4),
    )
    write_bytes_atomic(path, buffer.getvalue())


def read_evidence(path: Path) -> tuple[list[str], list[ImageEvidence]]:
    """Stems and what their images say. Raises UserError if the file is missing or none of ours."""
    try:
        with np.load(path, allow_pickle=False) as found:
            if int(found["version"]) != VERSION:
                raise UserError(f"{path} is of another version of `mtc-compress evaluate`")
            stems = [str(stem) for stem in found["stems"]]
            ends = np.cumsum(found["detections"])[:-1]
            parts = [np.split(found[name], ends) for name in ("scores", "right", "ignored")]
            objects, masks = found["objects"].tolist(), found["masks"].tolist()
            if "labels" in found:
                labels = np.split(found["labels"], ends)
                by_class = found["objects_by_class"].tolist()
            else:  # of a version that knew one class
                labels = [np.zeros(len(one), np.uint16) for one in parts[0]]
                by_class = [[count] for count in objects]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: evaluate the network first") from None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    evidence = []
    for image, count in enumerate(objects):
        detection = None
        if count >= 0:
            scores, right, ignored = (part[image] for part in parts)
            detection = DetectionEvidence(
                scores, right, ignored, labels[image], tuple(by_class[image])
            )
        counts = [None if one[0] < 0 else MaskCounts(*one) for one in masks[image]]
        evidence.append(ImageEvidence(detection, *counts))
    return stems, evidence


def read_attributes(path: Path) -> list[dict[str, str]]:
    """What is known of the images of a file that `read_evidence` reads, in their order."""
    with np.load(path, allow_pickle=False) as found:
        return [json.loads(str(one)) for one in found["attributes"]]


def _none() -> DetectionEvidence:
    """Stands for an image whose vehicles are not labelled."""
    bits = np.zeros(0, np.uint16)
    return DetectionEvidence(np.zeros(0, np.float32), bits, bits, bits, (-1,))
