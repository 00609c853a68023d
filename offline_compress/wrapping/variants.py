"""Variants of lower precision of a wrapped network, by labelled images."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mtc_perception.core.bundle import Manifest, read_bundle
from mtc_perception.core.class_map import ClassMap
from mtc_perception.datasets.layout import Sample
from mtc_perception.util.progress import Progress
from offline_compress.data.labelled import evenly, labelled_split, source_samples
from offline_compress.evaluation.subject import CHECKPOINT_THRESHOLDS
from offline_compress.quantization.activation_ranges import calibration_frames
from offline_compress.quantization.assess import FP32
from offline_compress.quantization.bundling import add_variants
from offline_compress.quantization.quantise import evaluator, quantise
from offline_compress.recipe.compression import Quantisation
from offline_compress.recipe.parts import DataSource
from offline_compress.wrapping.network_map import NetworkMap


@dataclass(frozen=True, slots=True)
class VariantData:
    """What variants of lower precision are made and judged with."""

    calibration: Sequence[Sample]
    judged: Sequence[Sample]
    title: str
    """For people: what they are judged on."""

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
        judged = DataSource(root=data, split=split)
        samples = labelled_split(judged, "judge variants by", classes)
        calibration = source_samples(DataSource(root=data, split=calibration_split))
        return cls(calibration, samples, f"{judged.title}, {len(samples)} images")


def add_quantised(path: Path, data: VariantData) -> Manifest:
    """Add float16 and int8 variants to the bundle at `path`. Raises UserError if a runtime does not
    run a variant."""
    bundle, settings = read_bundle(path), Quantisation()
    images = evenly(data.calibration, settings.images)
    with Progress(alone=True) as progress:
        made = quantise(
            bundle.model_bytes(FP32),
            list(calibration_frames(images, bundle.manifest.input.size)),
            settings.variants,
            evaluator(
                {"judged": evenly(data.judged, settings.judged_images)},
                CHECKPOINT_THRESHOLDS,
                bundle.manifest,
            ),
            settings,
            progress.count,
        )
        timing = partial(progress.count, "timing")
        return add_variants(bundle, made, bundle.path, data.title, timing)
