"""`python -m bench.architecture`: draw the pictures of docs/architecture.md, and write the page."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.tables import render

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGES = ("mtc_perception", "offline_compress")
STACKS = ("mtc_perception", "mtc_perception.replay", "offline_compress")
"""Whose layers are drawn, from left to right."""
COLOURS = ("#edf7ef", "#eef4fb", "#fff6e5")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a way, and where it is in the code."""

    lane: int
    file: str
    symbol: str
    title: str
    how: str

    @property
    def short(self) -> str:
        """The file as seen from its package."""
        return self.file.partition("/")[2]


@dataclass(frozen=True, slots=True)
class Room:
    """A package, and the first sentence of what it says of itself."""

    name: str
    words: str


def pages(root: Path) -> dict[str, str]:
    """The page and its pictures, by their place in the checkout."""
    ways = read_ways(root)
    rules = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]
    made = {
        "docs/architecture.md": render(
            "architecture.md.j2",
            ways=ways,
            packages={top: list(rooms(root, top)) for top in PACKAGES},
            contracts=[contract["name"] for contract in rules["contracts"]],
        ),
        "docs/pictures/layers.svg": render(
            "layers.svg.j2", stacks=list(stacks(rules)), colours=COLOURS
        ),
    }
    for way in ways:
        made[f"docs/pictures/{way['name']}.svg"] = render("way.svg.j2", way=way, colours=COLOURS)
    return made


def read_ways(root: Path) -> list[dict[str, Any]]:
    """The ways with their steps."""
    ways: list[dict[str, Any]] = yaml.safe_load((root / "docs/architecture.yaml").read_text())[
        "ways"
    ]
    return [way | {"steps": [Step(*step) for step in way["steps"]]} for way in ways]


def rooms(root: Path, top: str) -> Iterator[Room]:
    """The packages inside `top`, a package before those in it."""
    for path in sorted((root / top).rglob("__init__.py"), key=lambda path: path.parent.parts):
        name = path.parent.relative_to(root / top).as_posix()
        if name != ".":
            words = ast.get_docstring(ast.parse(path.read_text())) or ""
            yield Room(name, " ".join(words.split("\n\n")[0].split()))


def stacks(rules: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The layers that the import contracts name, each the rooms beside each other in it."""
    layered = {
        contract["containers"][0]: contract["layers"]
        for contract in rules["contracts"]
        if contract["type"] == "layers"
    }
    for name in STACKS:
        rows = [[room.strip() for room in row.split("|")] for row in layered[name]]
        yield {"name": name.replace(".", "/"), "layers": rows}


def main() -> int:
    """Write them in the working directory."""
    for place, content in pages(Path()).items():
        Path(place).write_text(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
