"""From launch arguments to node parameters; plain Python, used by `launch/perception.launch.py`."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtc_perception.util.errors import UserError

DEFAULT_CAMERAS = ["front"]


class LaunchArgumentError(UserError):
    """A launch argument cannot be used; the message names it."""


def check_names(command: Sequence[str], launch_file: str, known: Collection[str]) -> None:
    """Raise LaunchArgumentError for an argument NAME:=VALUE that the launch file does not have.

    `command` is that of the whole launch. One that launches another file, which includes this one,
    is that file's business.
    """
    if not any(Path(word).name == launch_file for word in command):
        return
    given = [word.partition(":=")[0] for word in command if ":=" in word]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise LaunchArgumentError(
            f"there is no launch argument {unknown[0]}; there are: {', '.join(sorted(known))}"
        )


def node_parameters(
    given: Mapping[str, str], defaults: Mapping[str, Any], own_params_file: bool
) -> dict[str, object]:
    """The node parameters that win over the parameter file.

    `given` has every launch argument as text, empty where it was not given; `defaults` the value of
    each parameter that is an argument of the same name, which tells its type. `own_params_file`
    says that the parameter file is not the shipped one, so that its cameras are not known here.
    Raises LaunchArgumentError.
    """
    parameters: dict[str, object] = {
        name: _value(name, given[name], default)
        for name, default in defaults.items()
        if given[name]
    }
    cameras, topics = _words(given["cameras"]), _words(given["topics"])
    if cameras:
        parameters["cameras"] = cameras
    elif not own_params_file:
        cameras = DEFAULT_CAMERAS
    elif topics or given["transport"]:
        raise LaunchArgumentError(
            "with a params_file of your own, topics and transport need cameras:=name,... as well"
        )
    if topics:
        if len(topics) != len(cameras):
            raise LaunchArgumentError(
                f"{len(topics)} topics for {len(cameras)} cameras ({', '.join(cameras)}): "
                "give one topic for each camera"
            )
        pairs = zip(cameras, topics, strict=True)
        parameters.update({f"{camera}.image_topic": topic for camera, topic in pairs})
    if given["transport"]:
        parameters.update({f"{camera}.transport": given["transport"] for camera in cameras})
    return parameters


def fastdds_environment(profile: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to `environment` so that images fit Fast DDS's shared memory.

    Nothing if it names a profile already, or if `profile` does not exist.
    """
    names = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    if any(name in environment for name in names) or not profile.is_file():
        return {}
    old = environment.get("ROS_DISTRO") in ("humble", "jazzy")
    return {names[0] if old else names[1]: str(profile)}


def _value(name: str, text: str, default: Any) -> Any:
    """`text` as a value of the type of `default`. Raises LaunchArgumentError."""
    kinds: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number"}
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        return type(default)(text)
    except (KeyError, ValueError):
        words = kinds[type(default)]
        raise LaunchArgumentError(f"{name} is {text!r}: it must be {words}") from None


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
