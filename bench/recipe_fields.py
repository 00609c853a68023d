"""`python -m bench.recipe_fields`: write docs/recipe.md, the fields of recipes, from the schema."""

import ast
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.tables import render
from offline_compress.recipe.recipe import Recipe

PAGE = "docs/recipe.md"
SOURCES = "offline_compress/recipe"
BOUNDS = {
    "exclusiveMinimum": "> {}",
    "minimum": "≥ {}",
    "exclusiveMaximum": "< {}",
    "maximum": "≤ {}",
    "multipleOf": "a multiple of {}",
}
KINDS = {"boolean": "true or false", "integer": "whole number", "number": "number"}


@dataclass(frozen=True, slots=True)
class RecipeField:
    """One field of a part of a recipe."""

    name: str
    kind: str
    default: str
    words: str


@dataclass(frozen=True, slots=True)
class RecipePart:
    """One part of a recipe, and its fields."""

    name: str
    words: str
    rows: list[RecipeField]


def page(root: Path) -> str:
    """The page as the code of the checkout has it."""
    return render("recipe_fields.md.j2", parts=list(parts(root)))


def parts(root: Path) -> Iterator[RecipePart]:
    """The recipe itself and then its parts, each after the one that first names it.

    Raises ValueError for a field without a docstring.
    """
    schema = Recipe.model_json_schema()
    known = {"Recipe": schema} | schema["$defs"]
    words, bases = field_words(root)
    waiting, seen = ["Recipe"], set[str]()
    while waiting:
        name = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        content = known[name]
        needed = content.get("required", [])
        rows = []
        for field, form in content["properties"].items():
            owner = next((c for c in (name, *bases[name]) if (c, field) in words), None)
            if owner is None:
                raise ValueError(f"{SOURCES}: nothing is said of {name}.{field}")
            default = "**needed**" if field in needed else _default(form)
            rows.append(RecipeField(field, _kind(form), default, words[owner, field]))
            waiting += _named(form)
        yield RecipePart(name, _one_line(content.get("description", "")), rows)


def field_words(root: Path) -> tuple[dict[tuple[str, str], str], dict[str, list[str]]]:
    """What the classes of recipes say of their fields, and the classes that they extend."""
    words: dict[tuple[str, str], str] = {}
    bases: dict[str, list[str]] = {}
    for path in sorted((root / SOURCES).glob("*.py")):
        for part in ast.parse(path.read_text()).body:
            if not isinstance(part, ast.ClassDef):
                continue
            bases[part.name] = [base.id for base in part.bases if isinstance(base, ast.Name)]
            for field, said in zip(part.body, part.body[1:], strict=False):
                match field, said:
                    case (
                        ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str(text))),
                    ):
                        words[part.name, name] = _one_line(text)
    return words, bases


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _named(form: Any) -> Iterator[str]:
    """The parts that a field's schema refers to."""
    if isinstance(form, dict):
        if "$ref" in form:
            yield form["$ref"].rpartition("/")[2]
        form = list(form.values())
    if isinstance(form, list):
        for inner in form:
            yield from _named(inner)


def _kind(form: dict[str, Any]) -> str:
    """What may be written there."""
    if "$ref" in form:
        name = form["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in form:
        return " or ".join(_kind(f) for f in form["anyOf"] if f != {"type": "null"})
    if "enum" in form or "const" in form:
        return " or ".join(f"`{value}`" for value in form.get("enum", [form.get("const")]))
    if form.get("type") == "array":
        if "prefixItems" in form:
            return " and ".join(_kind(inner) for inner in form["prefixItems"])
        return f"list of: {_kind(form['items'])}"
    if form.get("type") == "object":
        inner = form["additionalProperties"]
        return "fields by name" + (f": {_kind(inner)}" if isinstance(inner, dict) else "")
    if form.get("type") == "string":
        return "path" if form.get("format") == "path" else "text"
    bounds = [words.format(form[key]) for key, words in BOUNDS.items() if key in form]
    return " ".join([KINDS[form["type"]], ", ".join(bounds)]).strip()


def _default(form: dict[str, Any]) -> str:
    value = form.get("default")
    if value is None or value in ([], {}):
        return ""
    if isinstance(value, dict):
        return "its own"
    return f"`{json.dumps(value).strip(chr(34))}`"


def main() -> int:
    """Write it in the working directory."""
    Path(PAGE).write_text(page(Path()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
