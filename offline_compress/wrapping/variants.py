"""Variants of lower precision of a wrapped network, by labelled images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtc_perception.core.bundle import Manifest, read_bundle
from mtc_perception.core.class_map import ClassMap
from mtc_perception.datasets.layout import Sample
from mtc_perception.util.progress import Progress
from offline_compress.data.labelled import evenly, source_samples
from offline_compress.quantization.bundling import Judges, add_quantised
from offline_compress.recipe.compression import Quantisation
from offline_compress.recipe.parts import DataSource
from offline_compress.wrapping.network_map import NetworkMap


@dataclass(frozen=True, slots=True)
class VariantData:
    """What variants of lower precision are made and judged with."""

    calibration: Sequence[Sample]
    judges: Judges

    @classmethod
    def of(
        cls,
        data: Path,
        described: NetworkMap,
        split: str = "val",
        calibration_split: str = "train",
    ) -> "VariantData":
        """Of a data set. Raises LayoutError for one that is missing, broken or without labels, and
        UserError for labels that no class of the network takes."""
        classes = ClassMap.of(list(described.detection.classes) if described.detection else [])
        most = Quantisation().judged_images
        judges = Judges.of([DataSource(root=data, split=split)], most, classes)
        return cls(source_samples(DataSource(root=data, split=calibration_split)), judges)


def add_variants(path: Path, data: VariantData) -> Manifest:
    """Add float16 and int8 variants to the bundle at `path`. Raises UserError if a runtime does not
    run a variant."""
    settings = Quantisation()
    images = evenly(data.calibration, settings.images)
    with Progress(alone=True) as progress:
        add_quantised(read_bundle(path), images, data.judges, settings, path, progress.count)
    return read_bundle(path).manifest
