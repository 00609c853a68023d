"""The bundle: the one deployable thing, networks plus everything needed to run them.

A bundle is a directory `<name>.mtc/` (or the same, zipped) holding `manifest.json` and one ONNX
file per variant. It is verified whole before anything of it is used.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from typing_extensions import Self

from mtc_perception.core.bundle_files import MANIFEST_NAME, BundleFiles, write_files
from mtc_perception.core.class_map import ClassMap
from mtc_perception.core.input_size import Fit, InputSize
from mtc_perception.core.signature import (
    SIGNATURE_BYTES,
    SIGNATURE_NAME,
    check_signature,
    sign,
)
from mtc_perception.core.tasks import TASKS, Task
from mtc_perception.util.errors import BundleError
from mtc_perception.util.files import write_bytes_atomic
from mtc_perception.util.strict import Strict

SCHEMA_VERSION = 4
READABLE = (1, 2, 3, 4)
"""Schema versions that are read. Version 2 added the assessment of variants, 3
`thresholds_chosen_on` and `input.fit`, 4 `tasks`: before, a bundle had all of them."""

VariantKey = Literal["fp32", "fp16", "int8-ort", "int8-openvino", "int8-trt"]
Precision = Literal["fp32", "fp16", "int8"]
EngineName = Literal["tensorrt", "openvino", "onnxruntime"]
MOST_PIXELS = 8192
"""Of a side of the input."""
_READS = f"{READABLE[0]} to {READABLE[-1]}"

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
NonEmpty = Annotated[str, StringConstraints(min_length=1)]


def _shown(name: str) -> str:
    if not name.isprintable():
        raise ValueError(f"{name!r} holds control characters")
    return name


Name = Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(_shown)]
"""Goes out in messages, pages and terminals."""

MOST_MANIFEST_BYTES = 2**18
"""Ten times that of a bundle with all variants; to refuse it takes a tenth of a second."""
_PLAIN_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class InputSpec(Strict):
    """The graph input `image`: uint8 `[N, height, width, 3]`."""

    height: int = Field(gt=0, le=MOST_PIXELS)
    width: int = Field(gt=0, le=MOST_PIXELS)
    max_batch: int = Field(default=1, gt=0, le=1024)
    color_order: Literal["rgb"] = "rgb"
    fit: Fit = "letterbox"
    """How images are made to fill it."""

    @property
    def size(self) -> InputSize:
        """Height, width and fit."""
        return InputSize(self.height, self.width, self.fit)


class Thresholds(Strict):
    """Least probability that counts, per task. A value equal to the threshold counts.

    That of a task that a network lacks means nothing.
    """

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
    timings: list[Timing] = Field(max_length=1000)


class Variant(Strict):
    """One ONNX file: the same network at one precision, for the engines that can run it."""

    file: NonEmpty
    sha256: Sha256
    precision: Precision
    engines: list[EngineName] = Field(min_length=1, max_length=10)
    accuracy: dict[str, Any] | None = None
    assessment: Assessment | None = None
    """None for fp32, and for variants of bundles that nobody has assessed."""

    @field_validator("file")
    @classmethod
    def _stays_in_the_bundle(cls, value: str) -> str:
        if not _PLAIN_FILE_NAME.fullmatch(value) or value == MANIFEST_NAME:
            raise ValueError(f"{value!r} is not a plain file name inside the bundle")
        return value


class Training(Strict):
    """What the weights learnt from, and the licence that this puts on them."""

    data: list[str] = Field(max_length=1000)
    licence: str


class LineageStep(Strict):
    """One step of how the network came to be."""

    step: Literal["teacher", "train", "prune", "distill", "quantize", "export"]
    detail: str
    sha256: Sha256 | None = None
    accuracy: dict[str, Any] | None = None


class SelfTest(Strict):
    """Golden outputs of one variant on `self_test_frame`, all in 0..1; None where the network lacks
    the task."""

    drivable_mean: Fraction | None = None
    lane_mean: Fraction | None = None
    top_score: Fraction | None = None
    tolerance: float = Field(gt=0.0)
    """Largest difference from each golden value, relative to that value (see `check_self_test`)."""

    @property
    def tasks(self) -> list[Task]:
        """Those it has a value of."""
        values = {
            "detection": self.top_score,
            "drivable": self.drivable_mean,
            "lane": self.lane_mean,
        }
        return [task for task in TASKS if values[task] is not None]


class Manifest(Strict):
    """`manifest.json`. Variants without assessment are listed in order of preference."""

    schema_version: int = SCHEMA_VERSION
    name: Name
    version: Name
    variants: dict[VariantKey, Variant] = Field(min_length=1)
    input: InputSpec
    tasks: list[Task] = Field(default=list(TASKS), min_length=1)
    """What the network does, in the order of `TASKS`; nothing is said of the others."""
    classes: list[Name] = Field(max_length=1000)
    """Of what is detected; empty without detection."""
    labels: ClassMap | None = None
    """Which categories of labels the classes took in training; None: those of their names."""
    thresholds: Thresholds
    thresholds_chosen_on: str | None = None
    """Data sets on which they are the best; None: not known, or chosen by hand."""
    max_detections: int = Field(ge=0, le=10_000)
    """Candidates of the network; 0 without detection."""
    params: int = Field(ge=0)
    gmacs: float = Field(ge=0.0)
    training: Training
    lineage: list[LineageStep] = Field(max_length=1000)
    opset: int = Field(gt=0)
    exporter: dict[str, str]
    self_test: dict[VariantKey, SelfTest]

    @property
    def limits(self) -> Limits:
        """Those that the bundle comes with."""
        return Limits(self.thresholds, self.max_detections)

    @property
    def class_map(self) -> ClassMap:
        """The classes, and which categories of labels they take."""
        return self.labels or ClassMap.of(self.classes)

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
        if self.labels and self.labels.names != self.classes:
            raise ValueError("labels: its classes are not those of the bundle")
        for key, variant in self.variants.items():
            if key.split("-")[0] != variant.precision:
                raise ValueError(f"variants.{key}: precision says {variant.precision}")
        if set(self.self_test) != set(self.variants):
            raise ValueError("self_test must hold exactly the variants")
        if self.tasks != [task for task in TASKS if task in self.tasks]:
            raise ValueError(f"tasks must be of {', '.join(TASKS)}, each once, in this order")
        detects = "detection" in self.tasks
        if detects != bool(self.classes) or detects != bool(self.max_detections):
            raise ValueError("classes and max_detections are those of the task detection")
        for key, test in self.self_test.items():
            if test.tasks != self.tasks:
                raise ValueError(f"self_test.{key} must hold exactly the tasks")
        return self


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle. Made by `read_bundle`."""

    path: Path
    manifest: Manifest
    held: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)
    """ONNX files in memory, by variant."""

    def holding(self, variants: Iterable[str]) -> "Bundle":
        """The same with these variants in memory: they stay, whatever becomes of the files.

        Raises BundleError.
        """
        return replace(self, held={variant: self.model_bytes(variant) for variant in variants})

    def model_bytes(self, variant: str) -> bytes:
        """The ONNX file of `variant`, verified again if it is read. Raises BundleError."""
        if variant in self.held:
            return self.held[variant]
        entry = self.variant(variant)
        with BundleFiles(self.path) as files:
            data = files.read(entry.file)
        _check_sha256(self.path, entry, sha256_hex(data))
        return data

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


def read_bundle(path: str | Path, trusted_keys: Sequence[Path] = ()) -> Bundle:
    """Read and verify the bundle at `path`, a directory or a zip file.

    Where there are `trusted_keys`, PEM files with public keys, one of them must have signed it.
    Raises BundleError, in one line, when anything is missing, damaged or not as the schema says.
    """
    path = Path(path)
    with BundleFiles(path) as files:
        data = files.read(MANIFEST_NAME, MOST_MANIFEST_BYTES)
        if trusted_keys:  # nothing is parsed of what nobody has vouched for
            _check_signed(files, data, trusted_keys)
        try:
            manifest = parse_manifest(data)
        except BundleError as error:
            raise BundleError(f"{path}: {error}") from error
        for variant in manifest.variants.values():
            _check_sha256(path, variant, files.sha256(variant.file))
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


def sign_bundle(path: Path, key: Path) -> Bundle:
    """Put a signature by the private key in the PEM file `key` into the bundle at `path`.

    Raises BundleError for a bundle that is not whole, UserError for an unusable key.
    """
    bundle = read_bundle(path)
    with BundleFiles(path) as files:
        contents = {
            name: files.read(name)
            for name in (MANIFEST_NAME, *(one.file for one in bundle.manifest.variants.values()))
        }
    if parse_manifest(contents[MANIFEST_NAME]) != bundle.manifest:
        raise BundleError(f"{path}: is being changed; sign it when that is done")
    signature = sign(contents[MANIFEST_NAME], key)
    if path.is_dir():
        write_bytes_atomic(path / SIGNATURE_NAME, signature, durable=True)
    else:
        write_files(path, contents | {SIGNATURE_NAME: signature})
    return bundle


def signer_of(path: Path, trusted_keys: Sequence[Path]) -> Path:
    """Which of the public keys signed the bundle at `path`. Raises BundleError, UserError."""
    with BundleFiles(path) as files:
        data = files.read(MANIFEST_NAME, MOST_MANIFEST_BYTES)
        return _check_signed(files, data, trusted_keys)


def manifest_json(manifest: Manifest) -> bytes:
    """The manifest as the bytes of `manifest.json`."""
    return (json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n").encode()


def sha256_hex(data: bytes) -> str:
    """Lower-case hexadecimal sha256."""
    return hashlib.sha256(data).hexdigest()


def parse_manifest(data: bytes) -> Manifest:
    """The manifest that `manifest_json` gave as `data`. Raises BundleError."""
    try:
        content = json.loads(data.decode())
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST_NAME} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{MANIFEST_NAME} is not a JSON object")
    # Checked first: of a newer schema's many differences, the version is the one that explains.
    version = content.get("schema_version")
    if version not in READABLE or isinstance(version, bool):
        raise BundleError(
            f"bundle schema version is {version!r}, this version of mtc_perception reads"
            f" {_READS}; export the bundle again or install the matching version"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(
            f"{MANIFEST_NAME}: {where + ': ' if where else ''}{first['msg']}"
        ) from error


def _check_signed(files: BundleFiles, manifest: bytes, trusted_keys: Sequence[Path]) -> Path:
    if not files.has(SIGNATURE_NAME):
        raise BundleError(
            f"{files.path}: is not signed, and signatures are required; an assessment or another"
            " variant takes them off: sign it with `mtc-compress sign`"
        )
    signature = files.read(SIGNATURE_NAME, SIGNATURE_BYTES)
    try:
        return check_signature(manifest, signature, trusted_keys)
    except BundleError as error:
        raise BundleError(f"{files.path}: {error}") from error


def _check_sha256(path: Path, variant: Variant, found: str) -> None:
    if found != variant.sha256:
        raise BundleError(
            f"{path}: {variant.file} is damaged (its sha256 is not the manifest's);"
            " copy or export the bundle again"
        )
