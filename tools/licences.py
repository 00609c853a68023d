"""`python tools/licences.py`: hold the licences of all dependencies against pyproject's allow-list.

Looks at what is installed here of what requirements/*.in declare, and of what that draws in; ROS 2
is not declared there. Needs no network. Exit code 1 for a licence that is not allowed.
"""

import re
import sys
from collections.abc import Collection
from fnmatch import fnmatch
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]


def installed() -> dict[str, Distribution]:
    """Every dependency that is installed, by its name."""
    waiting = [
        Requirement(line)
        for path in sorted(ROOT.glob("requirements/*.in"))
        for line in path.read_text().splitlines()
        if not line.startswith("#")
    ]
    found: dict[str, Distribution] = {}
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        extras = {"", *wanted.extras}
        if name in found or not (
            wanted.marker is None or any(wanted.marker.evaluate({"extra": e}) for e in extras)
        ):
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # of a group that nobody asked for here
            continue
        waiting += [Requirement(line) for line in found[name].requires or ()]
    return found


def licence(package: Distribution) -> str:
    """What a package says of its licence: an SPDX expression, or the names of its classifiers."""
    metadata = package.metadata
    if expression := metadata.get_all("License-Expression"):
        return expression[0]
    classifiers = metadata.get_all("Classifier") or ()
    names = [one.split(" :: ")[-1] for one in classifiers if one.startswith("License :: ")]
    return " AND ".join(names) or (metadata.get_all("License") or [""])[0].split("\n")[0].strip()


def is_allowed(expression: str, allowed: Collection[str]) -> bool:
    """Whether one alternative of an SPDX expression is made of allowed licences alone."""
    names = {_plain(name) for name in allowed}
    return any(
        all(name.strip() in names for name in alternative.split(" AND "))
        for alternative in _plain(expression).split(" OR ")
    )


def _plain(expression: str) -> str:
    """Without parentheses: of those that occur, none changes the meaning."""
    return re.sub(r"[()]", "", expression)


def main() -> int:
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["licences"]
    allowed, by_hand = rules["allowed"], rules["by-hand"]
    refused = 0
    packages = installed()
    for name, package in sorted(packages.items()):
        says = licence(package)
        if not is_allowed(says, allowed) and not any(fnmatch(name, one) for one in by_hand):
            refused += 1
            print(f"{name} {package.version}: licence {says or 'unknown'!r} is not on the list")
    if refused:
        print("see [tool.licences] in pyproject.toml", file=sys.stderr)
    else:
        print(f"Licences: {len(packages)} dependencies, all allowed.")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
