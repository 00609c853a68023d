"""docs/method.md tells the truth: its table is that of the committed rows."""

import json
from pathlib import Path

from test_compression_report import ROWS

from bench.method import PAGE, evidence
from bench.readme import rewritten
from offline_compress.compression_rows import compression_json

ROOT = Path(__file__).parent.parent


def test_the_table_is_that_of_the_results() -> None:
    page = (ROOT / PAGE).read_text()
    result = json.loads((ROOT / "results" / "ablation.json").read_text())
    assert rewritten(page, evidence(result), "bench.method") == page


def test_what_is_not_known_is_said() -> None:
    rows = [one | {"pruned": {"detection": 0.4}} for one in ROWS[:1]]
    line = evidence(compression_json(rows)).splitlines()[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[0] == "ours"
    assert cells[4:7] == ["-50.0", "undefined", "undefined"]
