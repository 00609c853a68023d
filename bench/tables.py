"""Numbers in documents: Jinja2 templates in bench/templates/, filled from results/*.json."""

import json
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mtc_perception.metrics.figures import Figure

Result = dict[str, Any]

END = "<!-- end of numbers -->\n"
UNKNOWN = "n/a"
"""Of what is undefined, or was not measured."""


def render(template: str, **values: object) -> str:
    """A template as Markdown; a value that it asks for and that is not there is an error."""
    return _ENVIRONMENT.get_template(template).render(values)


def read_results(folder: Path, names: Iterable[str]) -> dict[str, Result]:
    """The committed results by name. Raises FileNotFoundError for one that is missing."""
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in names}


def with_numbers(page: str, block: str, module: str, name: str = "numbers") -> str:
    """`page` with what stands between the two marks of `module` replaced by `block`.

    `name` tells several blocks of a module apart.
    """
    begin = f"<!-- {name}: written by `python -m {module}` -->\n"
    head, found, rest = page.partition(begin)
    assert found, f"no mark of {module}"
    _, _, tail = rest.partition(END)
    return f"{head}{begin}{block}{END}{tail}"


def _number(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else format(value, form)


def _change(figure: Figure, before: Result, after: Result) -> str:
    """Points that a figure gained from one metric JSON to another."""
    values = figure.of(before), figure.of(after)
    if values[0] is None or values[1] is None:
        return UNKNOWN
    return f"{100 * (values[1] - values[0]):+.1f}"


def _spread(value: Result | None, form: str) -> str:
    """A mean and its deviation over the seeds, if there are several."""
    if value is None:
        return UNKNOWN
    deviation = value["deviation"]
    words = format(value["mean"], form)
    return words if deviation is None else f"{words} ± {deviation:{form.lstrip('+')}}"


def _span(values: list[float]) -> str:
    """Least and greatest of several runs."""
    low, high = values
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _machine(result: Result) -> str:
    """The machine that a result was measured on."""
    one = result["machine"]
    return f"{one['cpu']}, {one['cores']} cores"


def _commit(result: Result) -> str:
    """The commit that a result was made at, as people write it."""
    commit, plus, _ = result["commit"].partition("+")
    return commit[:7] + (" with changes" if plus else "")


def _command(result: Result) -> str:
    """The command that wrote a result, data sets by name: machines differ in where they lie."""
    program, *words = shlex.split(result["command"])
    if program.endswith(".py"):  # as results named modules of `bench` before
        program = f"python -m bench.{program.removesuffix('.py')}"
    named = (Path(word).name if "/data/" in word else word for word in words)
    return f"{program} {shlex.join(named)}".rstrip()


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # Markdown
)
_ENVIRONMENT.filters |= {
    "number": _number,
    "change": _change,
    "spread": _spread,
    "span": _span,
    "machine": _machine,
    "commit": _commit,
    "command": _command,
}


def rewrite(page: Path, filled: Callable[[str, Path], str]) -> int:
    """Exit code of a program that fills a page in the working directory from its results.

    2 if a result is missing.
    """
    try:
        text = filled(page.read_text(), Path("results"))
    except FileNotFoundError as error:
        print(f"error: {error.filename} is missing: measure it first", file=sys.stderr)
        return 2
    page.write_text(text)
    return 0
