"""The tables of docs/method.md: what is not known, and how criteria are compared."""

import numpy as np
import pytest

from bench.criteria import disagreement
from bench.method import evidence
from bench.tables import read_results
from offline_compress.report.compression_rows import compression_json
from support.checkout import ROOT


def test_what_is_not_known_is_said() -> None:
    results = read_results(ROOT / "results", ("ablation", "criteria"))
    rows = [one | {"pruned": {"drivable": 0.5}} for one in results["ablation"]["rows"][:1]]
    [line] = [
        line
        for line in evidence(compression_json(rows), results["criteria"]).splitlines()
        if line.startswith(f"| {results['ablation']['settings'][0]['name']} | x ")
    ]
    detection, drivable, lane = [cell.strip() for cell in line.strip("|").split("|")][4:7]
    assert (detection, lane) == ("n/a", "n/a")
    assert float(drivable) < 0


def test_criteria_are_compared_by_what_they_keep_and_by_order() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    swapped = np.array([1.0, 2.0, 4.0, 3.0, 5.0, 6.0])
    found = disagreement({"tci_max": values, "scaled": 10 * values, "other": swapped})
    assert found["scaled"] == {"kept_in_common": 1.0, "rank_correlation": pytest.approx(1.0)}
    assert found["other"]["kept_in_common"] == pytest.approx(2 / 3)
    assert found["other"]["rank_correlation"] == pytest.approx(1 - 6 * 2 / (6 * 35))
