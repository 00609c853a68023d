"""docs/method.md tells the truth: its tables are those of the committed results."""

import numpy as np
import pytest
from test_compression_report import ROWS

from bench.criteria import disagreement
from bench.method import PAGE, evidence, settings
from bench.readme import rewritten
from offline_compress.report.compression_rows import compression_json
from support.checkout import ROOT


def test_the_tables_are_those_of_the_results() -> None:
    page = (ROOT / PAGE).read_text()
    assert rewritten(page, evidence(ROOT / "results"), "bench.method") == page


def test_what_is_not_known_is_said() -> None:
    rows = [one | {"pruned": {"detection": 0.4}} for one in ROWS[:1]]
    line = settings(compression_json(rows))[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[0] == "ours"
    assert cells[4:7] == ["-50.0", "undefined", "undefined"]


def test_criteria_are_compared_by_what_they_keep_and_by_order() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    swapped = np.array([1.0, 2.0, 4.0, 3.0, 5.0, 6.0])
    found = disagreement({"tci_max": values, "scaled": 10 * values, "other": swapped})
    assert found["scaled"] == {"kept_in_common": 1.0, "rank_correlation": pytest.approx(1.0)}
    assert found["other"]["kept_in_common"] == pytest.approx(2 / 3)
    assert found["other"]["rank_correlation"] == pytest.approx(1 - 6 * 2 / (6 * 35))
