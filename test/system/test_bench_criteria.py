"""How criteria are compared, by hand, and `python -m bench.criteria` on a tiny network."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from bench.criteria import CRITERIA, REFERENCE, REPEATED, disagreement, main
from offline_compress.models.registry import model_spec, save_checkpoint
from offline_compress.roads.road_dataset import write_dataset
from support.tiny_training import register, tiny_recipe


def test_criteria_are_compared_by_what_they_keep_and_by_order() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    swapped = np.array([1.0, 2.0, 4.0, 3.0, 5.0, 6.0])
    found = disagreement({"tci_max": values, "scaled": 10 * values, "other": swapped})
    assert found["scaled"] == {"kept_in_common": 1.0, "rank_correlation": pytest.approx(1.0)}
    assert found["other"]["kept_in_common"] == pytest.approx(2 / 3)
    assert found["other"]["rank_correlation"] == pytest.approx(1 - 6 * 2 / (6 * 35))


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register()
    write_dataset(tmp_path / "roads", 16, 192, 128, seed=3, workers=1)
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(json.loads(tiny_recipe(tmp_path / "roads").model_dump_json())))
    spec = model_spec("tiny", ["vehicle"], 64, 96)
    save_checkpoint(tmp_path / "net", spec, spec.build())
    command = [str(recipe), str(tmp_path / "net"), "--results", str(tmp_path)]
    assert main([*command, "--images", "16"]) == 0
    found = json.loads((tmp_path / "criteria.json").read_text())
    assert found["images"] == 8
    assert set(found["criteria"]) == {REPEATED, *CRITERIA} - {REFERENCE}
    # Other images, not the same ones again.
    assert 0.5 < found["criteria"][REPEATED]["rank_correlation"] < 1
    assert main([*command, "--images", "8"]) == 2
    assert "error: " in capsys.readouterr().err
