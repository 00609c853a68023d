"""What `mkdocs.yml` leaves to code: a page of reference per package, and formulas as MathML."""

import ast
import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGES = ("mtc_perception", "offline_compress")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the reference to the navigation."""
    sections: list[Any] = []
    for top in PACKAGES:
        rooms = [room for room in packages() if room.split(".")[0] == top]
        sections.append({top: [{room.partition(".")[2] or top: page(room)} for room in rooms]})
    config.nav = [*(config.nav or []), {"Reference": sections}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the reference."""
    for room in packages():
        files.append(File.generated(config, page(room), content=reference(room)))
    return files


def on_page_content(content: str, **_: Any) -> str:
    """Formulas as MathML, which browsers draw by themselves."""

    def drawn(found: re.Match[str]) -> str:
        display = "block" if found[1] == "div" else "inline"
        return convert(html.unescape(found[2]), display=display)

    return FORMULA.sub(drawn, content)


def packages() -> Iterator[str]:
    """Dotted names of the packages that hold modules."""
    for top in PACKAGES:
        for folder in sorted({path.parent for path in Path(top).rglob("*.py")}):
            if any(modules(".".join(folder.parts))):
                yield ".".join(folder.parts)


def modules(package: str) -> Iterator[str]:
    """Dotted names of the modules right in a package."""
    for path in sorted(Path(*package.split(".")).glob("*.py")):
        if not path.stem.startswith("__"):
            yield f"{package}.{path.stem}"


def page(package: str) -> str:
    """Place of a package's page in the site."""
    return f"reference/{package}.md"


def reference(package: str) -> str:
    """A package's page: what it says of itself, then its modules."""
    init = Path(*package.split("."), "__init__.py").read_text()
    words = ast.get_docstring(ast.parse(init)) or ""
    parts = [f"# {package}", words, *(f"::: {module}" for module in modules(package))]
    return "\n\n".join(parts) + "\n"
