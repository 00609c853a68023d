"""The bundle: the one deployable thing, networks plus everything needed to run them.

A bundle is a directory `<name>.mtc/` (or the same, zipped) holding `manifest.json` and one ONNX
file per variant. It is verified whole before anything of it is used.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from typing_extensions import Self

from mtc_perception.core.bundle_files import MANIFEST_NAME, BundleFiles, write_files
from mtc_perception.util.errors import BundleError
from mtc_perception.util.strict import Strict

SCHEMA_VERSION = 2
READABLE = (1, 2)
"""Schema versions that are read. Version 2 added the assessment of variants."""

VariantKey = Literal["fp32", "fp16", "int8-ort", "int8-openvino", "int8-trt"]
Precision = Literal["fp32", "fp16", "int8"]
EngineName = Literal["tensorrt", "openvino", "onnxruntime"]
_READS = " and ".join(map(str, READABLE))

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
NonEmpty = Annotated[str, StringConstraints(min_length=1)]

_PLAIN_FILE_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


class InputSpec(Strict):
    """The graph input `image`: uint8 `[N, height, width, 3]`."""

    height: int = Field(gt=0)
    width: int = Field(gt=0)
    max_batch: int = Field(default=1, gt=0)
    color_order: Literal["rgb"] = "rgb"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


class Thresholds(Strict):
    """Least probability that counts, per task. A value equal to the threshold counts."""

    score: Fraction
    drivable: Fraction
    lane: Fraction


@dataclass(frozen=True, slots=True)
class Limits:
    """What of a network's answer counts."""

    thresholds: Thresholds
    max_detections: int
    """Boxes of an image, the best ones."""


class Timing(Strict):
    """What a variant takes of an engine, beside fp32 in the same run."""

    engine: EngineName
    machine: NonEmpty
    """Name of the class of machine (`engines.cpu.CpuClass`)."""
    median_ms: Annotated[float, Field(gt=0.0)]
    """Of one inference at batch 1."""
    of_fp32: Annotated[float, Field(gt=0.0)]
    """Time over that of the bundle's fp32 variant."""


class Assessment(Strict):
    """What a variant loses and gains beside the bundle's fp32 variant."""

    measured_on: NonEmpty
    """Data set, its part, and how many images."""
    lost_points: dict[str, float]
    """Hundredths by which each figure fell, by its dotted name; gains are below 0."""
    tolerance_points: Annotated[float, Field(ge=0.0)]
    """Largest loss of any of these figures that was allowed."""
    within_tolerance: bool
    timings: list[Timing]


class Variant(Strict):
    """One ONNX file: the same network at one precision, for the engines that can run it."""

    file: NonEmpty
    sha256: Sha256
    precision: Precision
    engines: list[EngineName] = Field(min_length=1)
    accuracy: dict[str, Any] | None = None
    assessment: Assessment | None = None
    """None for fp32, and for variants of bundles that nobody has assessed."""

    @field_validator("file")
    @classmethod
    def _stays_in_the_bundle(cls, value: str) -> str:
        if not _PLAIN_FILE_NAME.match(value) or value == MANIFEST_NAME:
            raise ValueError(f"{value!r} is not a plain file name inside the bundle")
        return value


class Training(Strict):
    """What the weights learnt from, and the licence that this puts on them."""

    data: list[str]
    licence: str


class LineageStep(Strict):
    """One step of how the network came to be."""

    step: Literal["teacher", "train", "prune", "distill", "quantize", "export"]
    detail: str
    sha256: Sha256 | None = None
    accuracy: dict[str, Any] | None = None


class SelfTest(Strict):
    """Golden outputs of one variant on `self_test_frame`, all in 0..1."""

    drivable_mean: Fraction
    lane_mean: Fraction
    top_score: Fraction
    tolerance: float = Field(gt=0.0)
    """Largest difference from each golden value, relative to that value (see `check_self_test`)."""


class Manifest(Strict):
    """`manifest.json`. Variants without assessment are listed in order of preference."""

    schema_version: int = SCHEMA_VERSION
    name: NonEmpty
    version: NonEmpty
    variants: dict[VariantKey, Variant] = Field(min_length=1)
    input: InputSpec
    classes: list[NonEmpty] = Field(min_length=1)
    thresholds: Thresholds
    max_detections: int = Field(gt=0)
    params: int = Field(ge=0)
    gmacs: float = Field(ge=0.0)
    training: Training
    lineage: list[LineageStep]
    opset: int = Field(gt=0)
    exporter: dict[str, str]
    self_test: dict[VariantKey, SelfTest]

    @property
    def limits(self) -> Limits:
        """Those that the bundle comes with."""
        return Limits(self.thresholds, self.max_detections)

    @field_validator("schema_version")
    @classmethod
    def _known_schema(cls, value: int) -> int:
        if value not in READABLE:
            raise ValueError(f"is {value}, this version reads {_READS}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        files = [variant.file for variant in self.variants.values()]
        if len(set(files)) != len(files):
            raise ValueError("two variants name the same file")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: a class name occurs twice")
        for key, variant in self.variants.items():
            if key.split("-")[0] != variant.precision:
                raise ValueError(f"variants.{key}: precision says {variant.precision}")
        if set(self.self_test) != set(self.variants):
            raise ValueError("self_test must hold exactly the variants")
        return self


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle. Made by `read_bundle`."""

    path: Path
    manifest: Manifest

    def model_bytes(self, variant: str) -> bytes:
        """The ONNX file of `variant`, verified again as it is read. Raises BundleError."""
        entry = self.variant(variant)
        with BundleFiles(self.path) as files:
            return _verified(files, entry)

    def variant(self, key: str) -> Variant:
        """The variant of this key. Raises BundleError if there is none."""
        for name, variant in self.manifest.variants.items():
            if name == key:
                return variant
        raise BundleError(
            f"{self.path}: no variant {key!r}; the bundle has {', '.join(self.manifest.variants)}"
        )

    def variants_for(self, engine: str, precision: str | None = None) -> list[str]:
        """Keys of the variants that `engine` runs, as listed. Raises BundleError if none is."""
        if fitting := [
            key
            for key, variant in self.manifest.variants.items()
            if engine in variant.engines and precision in (None, variant.precision)
        ]:
            return list(fitting)
        offered = ", ".join(
            f"{key} ({'/'.join(variant.engines)})"
            for key, variant in self.manifest.variants.items()
        )
        wanted = f"{precision} variant" if precision else "variant"
        raise BundleError(f"{self.path}: no {wanted} for {engine}; the bundle has {offered}")


def read_bundle(path: str | Path) -> Bundle:
    """Read and verify the bundle at `path`, a directory or a zip file.

    Raises BundleError, in one line, when anything is missing, damaged or not as the schema says.
    """
    path = Path(path)
    with BundleFiles(path) as files:
        manifest = _parse_manifest(path, files.read(MANIFEST_NAME))
        for variant in manifest.variants.values():
            _verified(files, variant)
    return Bundle(path=path, manifest=manifest)


def write_bundle(path: str | Path, manifest: Manifest, files: Mapping[str, bytes | Path]) -> None:
    """Write a bundle; whatever happens, there is never a partial one at `path`.

    `files` maps the file names of the manifest's variants to their content or to where it lies.
    A path ending in `.zip` is written as a zip file, any other as a directory. The same manifest
    and files always give the same bytes. Raises BundleError if they do not match each other, or
    if `path` holds something else than a bundle.
    """
    path = Path(path)
    named = {variant.file: variant.sha256 for variant in manifest.variants.values()}
    if set(named) != set(files):
        raise BundleError(
            f"{path}: the manifest names the files {sorted(named)}, given are {sorted(files)}"
        )
    contents = {MANIFEST_NAME: manifest_json(manifest)}
    for name in sorted(files):
        source = files[name]
        data = source if isinstance(source, bytes) else source.read_bytes()
        if sha256_hex(data) != named[name]:
            raise BundleError(f"{path}: {name} does not have the sha256 that the manifest gives")
        contents[name] = data
    write_files(path, contents)


def manifest_json(manifest: Manifest) -> bytes:
    """The manifest as the bytes of `manifest.json`."""
    return (json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n").encode()


def sha256_hex(data: bytes) -> str:
    """Lower-case hexadecimal sha256."""
    return hashlib.sha256(data).hexdigest()


def _verified(files: BundleFiles, variant: Variant) -> bytes:
    data = files.read(variant.file)
    if sha256_hex(data) != variant.sha256:
        raise BundleError(
            f"{files.path}: {variant.file} is damaged (its sha256 is not the manifest's);"
            " copy or export the bundle again"
        )
    return data


def _parse_manifest(path: Path, data: bytes) -> Manifest:
    try:
        content = json.loads(data.decode())
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: {MANIFEST_NAME} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path}: {MANIFEST_NAME} is not a JSON object")
    # Checked first: of a newer schema's many differences, the version is the one that explains.
    version = content.get("schema_version")
    if version not in READABLE or isinstance(version, bool):
        raise BundleError(
            f"{path}: bundle schema version is {version!r}, this version of mtc_perception reads"
            f" {_READS}; export the bundle again or install the matching version"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = " ".join(first["msg"].split())
        raise BundleError(
            f"{path}: {MANIFEST_NAME}: {where + ': ' if where else ''}{reason}"
        ) from error
