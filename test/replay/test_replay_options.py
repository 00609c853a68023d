"""Options of a replay: declared once, the same in a shell and in a scenario."""

from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
import typer
import typer.main
import yaml

from mtc_perception.replay.cli import app
from mtc_perception.replay.flags import options_of
from mtc_perception.replay.options import Recording, ReplayOptions
from mtc_perception.replay.run.scenario import Scenario, read_scenario
from mtc_perception.util.errors import UserError

OF_THE_RUN = {"bags", "scenario", "out", "fresh", "workers", "ray"}
"""Of the command alone: where and how often, not what and how."""
OF_THE_FILE = {"name", "bags", "limits"}


def command() -> Any:
    group: Any = typer.main.get_command(app)
    return group.commands["evaluate"]


def flags() -> dict[str, str]:
    """The command's options by the names of their fields."""
    return {str(one.name): one.opts[0] for one in command().params if one.name not in OF_THE_RUN}


def scenario_names() -> set[str]:
    """What a scenario file may say of a replay, with the parts of `truth` told apart."""
    schema = Scenario.model_json_schema()
    bag, truth = (schema["$defs"][name]["properties"] for name in ("Recording", "TruthTopics"))
    names = (set(schema["properties"]) - OF_THE_FILE) | (set(bag) - {"path", "truth"})
    return names | {f"truth_{part}" for part in truth}


def test_every_option_of_the_command_is_one_of_the_scenario_and_the_other_way_round() -> None:
    assert set(flags()) == scenario_names()
    assert all(one.help for one in command().params)


def sample(kind: Any) -> Any:
    """A value of an option that is not its default."""
    if get_origin(kind) in (Union, UnionType):
        kind = get_args(kind)[0]
    if choices := [one for one in get_args(kind) if isinstance(one, str)]:
        return choices[-1]
    if get_origin(kind) is tuple:
        return ["/front", "/rear"]
    return {float: 0.5, int: 3, bool: True}.get(kind, "some/place")


def replay_of(words: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    given = command().make_context("evaluate", words).params
    return options_of(Recording, given), options_of(ReplayOptions, given)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (model, name)
        for model in (Recording, ReplayOptions)
        for name in model.model_fields
        if name not in ("path", "truth", "bundle")
    ],
)
def test_a_flag_and_a_key_mean_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: type[Any], name: str
) -> None:
    monkeypatch.chdir(tmp_path)  # where paths of both begin
    value = sample(model.model_fields[name].annotation)
    words, bundle = flags()[name], {"bundle": "network.mtc"}
    values = value if isinstance(value, list) else [value]
    switch = value is True or name == "mode"
    line = [words] if switch else [word for one in values for word in (words, str(one))]
    bag, options = replay_of(["drive", "-b", "network.mtc", *line])
    content: dict[str, Any] = {"name": "nightly", **bundle, "bags": [{"path": "drive"}]}
    (content["bags"][0] if model is Recording else content)[name] = value
    (tmp_path / "nightly.yaml").write_text(yaml.safe_dump(content))
    scenario = read_scenario(tmp_path / "nightly.yaml", {})
    assert Recording(path=Path("drive"), **bag) == scenario.bags[0]
    assert ReplayOptions(**options) == scenario.options()
    changed = getattr(scenario.bags[0] if model is Recording else scenario, name)
    assert changed != model.model_fields[name].default


def test_topics_of_labels_are_options_one_by_one() -> None:
    bag, _ = replay_of(["drive", "--truth-lane", "/lane", "--truth-detections", "/boxes"])
    assert bag == {"truth": {"lane": "/lane", "detections": "/boxes"}}


@pytest.mark.parametrize(
    ("words", "line", "reason"),
    [
        ("--seconds", "seconds: 0", "Input should be greater than 0"),
        ("--rate", "rate: 0", "Input should be greater than 0"),
        ("--threads", "threads: 0", "Input should be greater than or equal to 1"),
    ],
)
def test_bounds_are_the_same(tmp_path: Path, words: str, line: str, reason: str) -> None:
    with pytest.raises(typer.BadParameter, match=reason):
        replay_of(["drive", words, "0"])
    file = tmp_path / "nightly.yaml"
    file.write_text(f"name: nightly\nbundle: a.mtc\nbags: [{{path: drive}}]\n{line}\n")
    with pytest.raises(UserError, match=f"{line.partition(':')[0]}: {reason}"):
        read_scenario(file, {})


def test_a_flag_goes_before_a_key_also_where_it_says_the_default(tmp_path: Path) -> None:
    file = tmp_path / "nightly.yaml"
    file.write_text("name: nightly\nbags: [{path: drive}]\nmax_frame_age_ms: 50\nrate: 2\n")
    _, given = replay_of(["-b", "a.mtc", "--max-frame-age-ms", "0"])
    options = read_scenario(file, given).options()
    assert (options.max_frame_age_ms, options.rate) == (0.0, 2.0)
    assert options.bundle == Path.cwd() / "a.mtc"
