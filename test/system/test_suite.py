"""Rules of the suite itself."""

import re

from support.checkout import ROOT

IMPORT = re.compile(r"^\s*(?:from|import)\s+(?:[\w.]+\.)?(test_\w+|conftest)\b", re.MULTILINE)


def test_no_test_module_is_imported() -> None:
    """What two of them share lies in `support`, or in the conftest of their folder."""
    found = {
        str(path.relative_to(ROOT)): IMPORT.findall(path.read_text())
        for path in (ROOT / "test").rglob("*.py")
    }
    assert len(found) > 100
    assert {path: names for path, names in found.items() if names} == {}


def test_nothing_that_tests_start_is_silenced() -> None:
    """What a process says on stderr is why a test fails."""
    silenced = re.compile(r"stderr\s*=\s*(?:subprocess\.)?DEVNULL|2>\s*/dev/null")
    paths = (ROOT / "test").rglob("*.py")
    assert [path.name for path in paths if silenced.search(path.read_text())] == []
