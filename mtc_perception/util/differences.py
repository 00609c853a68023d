"""In what two descriptions of a piece of work differ, in words."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtc_perception.util.errors import UserError


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """In words, every field in which two JSON objects differ."""
    before, after = flat(old), flat(new)
    return [
        f"{name} was {_value(before.get(name))} and is {_value(after.get(name))}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a JSON object by their dotted names; entries of a list of objects by number."""
    leaves: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
            value = {str(number): one for number, one in enumerate(value)}
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves


def _value(value: Any) -> str:
    text = "not given" if value is None else str(value)
    if len(text) <= 40:
        return text
    return f"...{text[-36:]}" if "/" in text else f"{text[:12]}..."


def held_of(path: Path) -> dict[str, Any]:
    """`of` of a JSON file, which says what its result is of; empty where it does not say."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    of = content.get("of") if isinstance(content, dict) else None
    return of if isinstance(of, dict) else {}


def refuse_other(
    place: Path, holds: Mapping[str, Any], wanted: Mapping[str, Any], option: str = "--out"
) -> None:
    """Raise UserError, which names the first difference, where `place` holds something else.

    `option` is what to give another place by.
    """
    if changes := differences(holds, wanted):
        more = f", and {len(changes) - 1} more" if changes[1:] else ""
        raise UserError(
            f"{place} holds the result of something else: {changes[0]}{more}; give another {option}"
        )
