"""Variants of lower precision of a bundle, by the labelled images of one data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtc_perception.core.bundle import Manifest, read_bundle
from mtc_perception.core.class_map import ClassMap
from mtc_perception.datasets.layout import Sample
from mtc_perception.util.progress import Progress
from offline_compress.data.labelled import evenly, source_samples
from offline_compress.quantization.bundling import Judges, add_quantised
from offline_compress.ready import require_data
from offline_compress.recipe.compression import Quantisation
from offline_compress.recipe.parts import DataSource


@dataclass(frozen=True, slots=True)
class VariantData:
    """What variants are made and judged with."""

    calibration: Sequence[Sample]
    judges: Judges
    settings: Quantisation

    @classmethod
    def of(
        cls,
        data: Path,
        classes: ClassMap,
        split: str = "val",
        calibration_split: str = "train",
        settings: Quantisation | None = None,
    ) -> "VariantData":
        """Of a data set, for a network of these classes. Raises LayoutError for one that is
        missing, broken or without labels, and UserError for labels that no class takes."""
        settings = settings or Quantisation()
        judged, calibration = (
            DataSource(root=data, split=one) for one in (split, calibration_split)
        )
        require_data([judged, calibration])
        judges = Judges.of([judged], settings.judged_images, classes)
        return cls(evenly(source_samples(calibration), settings.images), judges, settings)


def add_variants_of(data: VariantData, bundle: Path, out: Path | None = None) -> Manifest:
    """Write the bundle with its variants to `out`, by default in its own place. Raises UserError if
    a runtime does not run a variant."""
    out = out or bundle
    with Progress(alone=True) as progress:
        add_quantised(
            read_bundle(bundle), data.calibration, data.judges, data.settings, out, progress.count
        )
    return read_bundle(out).manifest
