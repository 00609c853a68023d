"""The node's parameters: one table, their validation, and the values as plain dataclasses."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.validate_topic_name import validate_topic_name

from mtc_perception.core.bundle import Precision, Thresholds
from mtc_perception.core.engine import EngineChoice
from mtc_perception.runtime.perceiver import Selection
from mtc_perception.util.errors import EngineError

SHIPPED_BUNDLE = "mtc_nano.mtc"


@dataclass(frozen=True, slots=True)
class Spec:
    """One parameter: its default and what it may be set to."""

    default: Any
    description: str
    limits: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    live: bool = False
    """Whether it may change while the node is configured."""
    read_only: bool = False
    """Whether it is set by whoever starts the node alone, and by nobody over the network."""

    def descriptor(self) -> ParameterDescriptor:
        constraints = [] if self.live or self.read_only else ["changeable only while unconfigured"]
        if self.choices:
            constraints.insert(0, "one of: " + ", ".join(map(repr, self.choices)))
        descriptor = ParameterDescriptor(
            description=self.description,
            additional_constraints="; ".join(constraints),
            read_only=self.read_only,
        )
        if self.limits:
            low, high = self.limits
            if isinstance(self.default, int):
                limits = IntegerRange(from_value=int(low), to_value=int(high))
                descriptor.integer_range = [limits]
            else:
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=low, to_value=high)
                ]
        return descriptor


_THRESHOLD = "; -1 takes the bundle's own"


def node_specs() -> dict[str, Spec]:
    """Every parameter that does not belong to a camera."""
    return {
        "autostart": Spec(False, "Configure and activate as soon as the process runs"),
        "bundle": Spec(str(default_bundle()), "Path of the .mtc bundle to run"),
        "bundle_folders": Spec(
            "",
            "Folders, separated by ':', outside of which no bundle is loaded; empty: configure "
            "takes any, load_engine those in the folders of the configured and the shipped bundle",
            read_only=True,
        ),
        "trusted_keys": Spec(
            "",
            "PEM files with public keys, separated by ':'; if any, only bundles that one of them "
            "has signed are loaded",
            read_only=True,
        ),
        "load_engine": Spec(
            True, "Whether the service ~/load_engine loads anything", read_only=True
        ),
        "engine": Spec(
            "auto",
            "Inference runtime; auto takes the fastest that works here",
            choices=get_args(EngineChoice),
        ),
        "precision": Spec(
            "auto",
            "Variant of the network; auto takes the best the bundle has for the engine",
            choices=("auto", *get_args(Precision)),
        ),
        "threads": Spec(0, "CPU threads for inference; 0 lets the engine decide", (0, 256)),
        "build_engine": Spec(
            False,
            "Build a missing TensorRT engine when the node is configured, which takes minutes",
        ),
        "fallback": Spec(
            "cpu",
            "When an engine fails while running, a GPU one too: go on with the next CPU engine, or "
            "stop",
            choices=("cpu", "none"),
        ),
        "cameras": Spec(["front"], "Camera names; with several, outputs are <camera>/..."),
        "reliability": Spec(
            "best_effort",
            "QoS of the image subscriptions; best_effort receives from every publisher",
            choices=("best_effort", "reliable"),
        ),
        "diagnostics_period_s": Spec(1.0, "Seconds between /diagnostics messages", (0.1, 60.0)),
        "max_frame_age_ms": Spec(
            0.0,
            "Images older than this when their turn comes are stale and skipped, unless camera and "
            "node clocks differ; 0 is no limit",
            (0.0, 60_000.0),
            live=True,
        ),
        "score_threshold": Spec(
            -1.0, "Lowest score of a published detection" + _THRESHOLD, (-1.0, 1.0), live=True
        ),
        "drivable_threshold": Spec(
            -1.0, "Lowest probability of a drivable pixel" + _THRESHOLD, (-1.0, 1.0), live=True
        ),
        "lane_threshold": Spec(
            -1.0, "Lowest probability of a lane pixel" + _THRESHOLD, (-1.0, 1.0), live=True
        ),
        "max_detections": Spec(
            0, "Most detections per image; 0 is as many as the network yields", (0, 1000), live=True
        ),
    }


def camera_specs(camera: str, alone: bool) -> dict[str, Spec]:
    """The parameters of one camera; `alone` when it is the only one."""
    topic = "image_raw" if alone else f"{camera}/image_raw"
    return {
        f"{camera}.image_topic": Spec(topic, "Topic of the camera's images"),
        f"{camera}.transport": Spec(
            "raw",
            "raw subscribes sensor_msgs/Image, compressed the CompressedImage of "
            "<image_topic>/compressed",
            choices=("raw", "compressed"),
        ),
    }


def default_bundle() -> Path:
    """The bundle that ships with the package, installed or in the checkout."""
    try:
        share = Path(get_package_share_directory("mtc_perception"))
    except PackageNotFoundError:
        share = Path(__file__).resolve().parents[2]
    return share / "models" / SHIPPED_BUNDLE


@dataclass(frozen=True, slots=True)
class CameraSettings:
    name: str
    topic: str
    """As given, to be resolved by the node; without the `/compressed` of the transport."""
    compressed: bool


@dataclass(frozen=True, slots=True)
class Settings:
    """What is fixed from configure to cleanup."""

    selection: Selection
    build_engine: bool
    reliable: bool
    cameras: tuple[CameraSettings, ...]


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """What may change while running; replaced as a whole, so that a frame sees one version."""

    max_frame_age_ms: float
    score_threshold: float
    drivable_threshold: float
    lane_threshold: float
    max_detections: int

    def thresholds(self, bundle: Thresholds) -> Thresholds:
        """These where given, else the bundle's."""
        return Thresholds(
            score=bundle.score if self.score_threshold < 0 else self.score_threshold,
            drivable=bundle.drivable if self.drivable_threshold < 0 else self.drivable_threshold,
            lane=bundle.lane if self.lane_threshold < 0 else self.lane_threshold,
        )


LIVE_NAMES = tuple(LiveSettings.__dataclass_fields__)


class Parameters:
    """Declares the table on a node, validates every change, reads the values."""

    def __init__(self, node: Node, on_live: Callable[[LiveSettings], None]) -> None:
        """Declare all parameters; raises rclpy's ParameterException for an unusable override.

        `on_live` gets the new live values whenever they change while configured.
        """
        self._node = node
        self._on_live = on_live
        self._specs: dict[str, Spec] = {}
        self.locked = False
        """Set while configured: only live parameters may change."""
        node.add_on_set_parameters_callback(self._on_set)
        self._declare(node_specs())
        self._declare_cameras()

    def settings(self) -> Settings:
        """The values fixed by configure; each was validated as it was set."""
        self._declare_cameras()
        names: Sequence[str] = self._value("cameras")
        return Settings(
            selection=self.selection(),
            build_engine=self._value("build_engine"),
            reliable=self._value("reliability") == "reliable",
            cameras=tuple(
                CameraSettings(
                    name=name,
                    topic=self._value(f"{name}.image_topic"),
                    compressed=self._value(f"{name}.transport") == "compressed",
                )
                for name in names
            ),
        )

    def selection(self, bundle: str = "", engine: str = "", precision: str = "") -> Selection:
        """What the parameters select, save for what is given.

        Raises EngineError for an engine or a precision that no parameter could have.
        """
        given = {"bundle": bundle, "engine": engine, "precision": precision}
        for name, value in given.items():
            if value and (reason := _choice_refusal(name, value, self._specs[name])):
                raise EngineError(reason)
        values: dict[str, Any] = {name: v or self._value(name) for name, v in given.items()}
        return Selection(
            # Unlike Path's method it does not tell whether there is a user of some name.
            bundle=Path(os.path.expanduser(values["bundle"])),
            engine=values["engine"],
            precision=None if values["precision"] == "auto" else values["precision"],
            threads=self._value("threads") or None,
            trusted_keys=self._paths("trusted_keys"),
            fallback=self._value("fallback") == "cpu",
        )

    def check_bundle(self, bundle: Path) -> None:
        """Raise EngineError for a bundle outside of `bundle_folders`, if there are any."""
        if folders := self._paths("bundle_folders"):
            _check_inside(bundle, folders)

    def check_swap(self, bundle: Path | None, configured: Path) -> None:
        """Raise EngineError if `load_engine` may not load `bundle`, None for the one that runs, in
        a node that was configured with the bundle `configured`."""
        if not self._value("load_engine"):
            raise EngineError("load_engine is switched off by the parameter load_engine")
        if bundle is not None:
            folders = self._paths("bundle_folders")
            beside = dict.fromkeys((configured.parent, default_bundle().parent))
            _check_inside(bundle, folders or tuple(beside))

    def follow(self, selection: Selection) -> None:
        """Make the parameters say what was selected, while they are locked for everybody else.

        `auto` stays `auto`: the parameters are what the next configure starts from, and what runs
        is in the diagnostics. Raises EngineError if somebody else's callback refuses.
        """
        values = {
            "bundle": str(selection.bundle),
            "engine": selection.engine,
            "precision": selection.precision or "auto",
        }
        locked, self.locked = self.locked, False
        try:
            result = self._node.set_parameters_atomically(
                [Parameter(name, value=value) for name, value in values.items()]
            )
        finally:
            self.locked = locked
        if not result.successful:
            raise EngineError(f"{', '.join(values)} stay as they were: {result.reason}")

    def live(self, changes: Iterable[Parameter] = ()) -> LiveSettings:
        """The live values, with `changes` that are about to be made."""
        changed = {parameter.name: parameter.value for parameter in changes}
        return LiveSettings(
            **{name: changed[name] if name in changed else self._value(name) for name in LIVE_NAMES}
        )

    def unknown_overrides(self) -> list[str]:
        """Names given at the start that no parameter has: most likely misspelt."""
        overrides = self._node._parameter_overrides
        return [name for name in overrides if not self._node.has_parameter(name)]

    @property
    def autostart(self) -> bool:
        return bool(self._value("autostart"))

    @property
    def diagnostics_period_s(self) -> float:
        return float(self._value("diagnostics_period_s"))

    def _paths(self, name: str) -> tuple[Path, ...]:
        return _paths(self._value(name))

    def _value(self, name: str) -> Any:
        return self._node.get_parameter(name).value

    def _declare(self, specs: dict[str, Spec]) -> None:
        self._specs.update(specs)
        overrides = self._node._parameter_overrides
        for name, spec in specs.items():
            given = overrides.get(name)
            # Of YAML and of the command line, to which 1 is no 1.0.
            if given and isinstance(spec.default, float) and given.type_ is Parameter.Type.INTEGER:
                overrides[name] = Parameter(name, value=float(given.value))
            if not self._node.has_parameter(name):
                self._node.declare_parameter(name, spec.default, spec.descriptor())

    def _declare_cameras(self) -> None:
        cameras = self._value("cameras")
        for camera in cameras:
            self._declare(camera_specs(camera, alone=len(cameras) == 1))

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            spec = self._specs.get(parameter.name)
            # Types and ranges are checked by rclpy from the descriptor.
            if spec is not None and (reason := self._refusal(parameter, spec)):
                return SetParametersResult(successful=False, reason=reason)
        if self.locked and any(parameter.name in LIVE_NAMES for parameter in parameters):
            self._on_live(self.live(parameters))
        return SetParametersResult(successful=True)

    def _refusal(self, parameter: Parameter, spec: Spec) -> str | None:
        name, value = parameter.name, parameter.value
        if self.locked and not spec.live:
            return f"{name} can change only while the node is unconfigured: call cleanup first"
        if reason := _choice_refusal(name, value, spec):
            return reason
        if name.endswith("_threshold") and -1.0 < value < 0.0:
            return f"{name} is {value}; it must be in 0..1, or -1 for the bundle's own"
        if name in ("bundle_folders", "trusted_keys") and value and not _paths(value):
            return f"{name} is {value!r}, which names no path; to limit nothing leave it empty"
        if name == "cameras":
            return _cameras_refusal(value)
        if name.endswith(".image_topic"):
            try:
                validate_topic_name(value)
            except InvalidTopicNameException:
                return f"{name} is {value!r}, which is not a topic name"
        return None


def _paths(value: str) -> tuple[Path, ...]:
    parts = value.split(os.pathsep)
    return tuple(Path(os.path.expanduser(part)) for part in parts if part.strip())


def _check_inside(bundle: Path, folders: Sequence[Path]) -> None:
    """Raise EngineError unless `bundle` lies, wherever links lead, in or below one of `folders`.

    Says the same of what is there and of what is not: whoever asks may have no business to know.
    """
    if not any(_real(bundle).is_relative_to(_real(folder)) for folder in folders):
        raise EngineError(
            f"the bundle lies outside of {', '.join(map(str, folders))}, see the parameter"
            " bundle_folders"
        )


def _real(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # a 0 byte in it
        return Path("/") / "no path"


def _choice_refusal(name: str, value: Any, spec: Spec) -> str | None:
    if spec.choices and value not in spec.choices:
        return f"{name} is {value!r}; it must be one of {', '.join(map(repr, spec.choices))}"
    return None


def _cameras_refusal(names: Sequence[str]) -> str | None:
    if not names:
        return "cameras is empty; name at least one camera"
    for name in names:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            return f"camera name {name!r} must be letters, digits and _, beginning with a letter"
    if len(set(names)) != len(names):
        return f"cameras has a name twice: {', '.join(names)}"
    return None
