"""`python -m bench.faults`: write docs/faults.md from the tests that prove each fault's answer."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.tables import read_results, render

PAGE = "docs/faults.md"
AREAS = (
    "camera",
    "clock",
    "DDS",
    "engine",
    "bundle",
    "store",
    "disk",
    "memory",
    "signal",
    "lifecycle",
    "replay",
    "offline",
    "security",
)
"""In the order of the page."""
LONG_RUNS = ("fuzz", "soak", "kills")
FIELDS = ("area", "row", "answer", "diagnostics")


@dataclass(frozen=True, slots=True)
class Fault:
    """One `@pytest.mark.fault(...)`: what goes wrong, and what is done and said about it."""

    area: str
    row: str
    answer: str
    diagnostics: str
    """What is seen of it, in /diagnostics or on a terminal."""
    test: str
    """The test that proves it, as pytest takes it."""


def page(root: Path) -> str:
    """The page as the tests of the checkout have it. Raises ValueError for an unusable marker."""
    found = list(faults(root))
    areas = {area: [fault for fault in found if fault.area == area] for area in AREAS}
    # Each part of its own run, which takes long: there as soon as there is a result.
    names = [name for name in LONG_RUNS if (root / "results" / f"{name}.json").is_file()]
    long_runs = read_results(root / "results", names)
    return render("faults.md.j2", areas=areas, rows=len(found), **long_runs)


def faults(root: Path) -> Iterator[Fault]:
    """The marked tests, in the order of their files and lines."""
    for path in sorted(root.glob("test/**/test_*.py")):
        place = path.relative_to(root).as_posix()
        for test in ast.parse(path.read_text()).body:
            if isinstance(test, ast.FunctionDef):
                for decorator in test.decorator_list:
                    # Of a parametrised test, single parameters may be marked.
                    for call in ast.walk(decorator):
                        if _is_marker(call):
                            yield _fault(call, f"{place}::{test.name}")


def _is_marker(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault"


def _fault(call: ast.AST, test: str) -> Fault:
    assert isinstance(call, ast.Call)
    try:
        fields = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except ValueError:
        raise ValueError(f"{test}: fault takes literal strings") from None
    if call.args or sorted(fields) != sorted(FIELDS):
        raise ValueError(f"{test}: fault takes {', '.join(f'{name}=...' for name in FIELDS)}")
    if fields["area"] not in AREAS:
        raise ValueError(f"{test}: area is {fields['area']!r}, not one of {', '.join(AREAS)}")
    for name, words in fields.items():
        if not words or "|" in words or "\n" in words:
            raise ValueError(f"{test}: {name} must be one line that fits into a table")
    return Fault(**fields, test=test)


def main() -> int:
    """Write the page in the working directory."""
    try:
        text = page(Path())
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    Path(PAGE).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
