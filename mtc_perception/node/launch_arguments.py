"""From launch arguments to node parameters; plain Python, used by `launch/perception.launch.py`."""

from collections.abc import Mapping
from pathlib import Path

from mtc_perception.util.errors import UserError

THRESHOLDS = ("score_threshold", "drivable_threshold", "lane_threshold")
DEFAULT_CAMERAS = ["front"]


class LaunchArgumentError(UserError):
    """A launch argument cannot be used; the message names it."""


def node_parameters(given: Mapping[str, str], own_params_file: bool) -> dict[str, object]:
    """The node parameters that win over the parameter file.

    `given` has every launch argument as text, empty where it was not given. `own_params_file` says
    that the parameter file is not the shipped one, so that its cameras are not known here.
    Raises LaunchArgumentError.
    """
    parameters: dict[str, object] = {
        name: given[name] for name in ("bundle", "engine") if given[name]
    }
    for name in THRESHOLDS:
        if given[name]:
            parameters[name] = _number(name, given[name])

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


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise LaunchArgumentError(f"{name} is {text!r}: it must be a number") from None


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
