"""The tour of docs/tour.md, in small: from nothing to a bundle, its report and pictures."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import mtc_perception.replay.cli
import offline_compress.cli
from mtc_perception.core.bundle import read_bundle
from offline_compress.evaluation import latency
from offline_compress.recipe.recipe import load_recipe
from support.checkout import ROOT
from support.tiny_networks import TINY

RECIPE = ROOT / "config" / "recipes" / "mtc_tour.yaml"
PAGE = (ROOT / "docs" / "tour.md").read_text()
PROGRAMS = {
    "mtc-compress": offline_compress.cli.app,
    "mtc-replay": mtc_perception.replay.cli.app,
}
SHORT = {"samples_per_epoch": 4, "batch": 2, "warmup_epochs": 0, "validate_every_epochs": 1}
SMALL = {
    "arguments": TINY,
    "input": {"height": 64, "width": 96},
    "crop": {"height": 64, "width": 96},
    "train.0.synthetic.count": 3,
    "validate_on.synthetic.count": 2,
    "schedule": {"epochs": 1, **SHORT},
    "compress.recover.schedule": {"epochs": 1, **SHORT},
    "compress.scoring": {"images": 2, "batch": 2},
    "compress.prune": {
        "budget": {"parameters": 0.7},
        "steps": 1,
        "round_to": 1,
        "least_channels": 2,
        # A network of two steps bears no cut: its losses are at the mercy of the statistics.
        "largest_rise": None,
    },
    "compress.quantise": {"variants": ["int8-ort"], "images": 2, "tolerance": 100},
}


def commands(page: str) -> list[list[str]]:
    """The lines of the page's shell blocks that are programs of ours."""
    blocks = "".join(re.findall(r"^```bash\n(.*?)^```$", page, re.DOTALL | re.MULTILINE))
    bundle = re.search(r"^bundle=(\S+)$", blocks, re.MULTILINE)
    assert bundle is not None
    lines = blocks.replace("$bundle", bundle[1]).splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [one for one in words if one and one[0] in PROGRAMS]


def small(words: list[str]) -> list[str]:
    """The same command for a machine that has no time."""
    if "--recipe" in words:
        schedule = load_recipe(RECIPE).schedule.model_dump()
        changes = {
            name: {**schedule, **value} if name.endswith("schedule") else value
            for name, value in SMALL.items()
        }
        sets = [f"--set={name}={json.dumps(value)}" for name, value in changes.items()]
        return [*words, "--threads", "1", *sets]
    if "--seconds" in words:
        return [*words, "--seconds", "0.3", "--size", "96x64"]
    if "demo" in words:
        return [*words, "--seconds", "1"]
    return words


@pytest.mark.slow
@pytest.mark.dds
def test_the_tour_goes_from_nothing_to_a_bundle_and_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MTC_DATA", raising=False)
    for name, least in (("LOADS", 1), ("BLOCKS", 2), ("RUNS_PER_BLOCK", 1)):
        monkeypatch.setattr(latency, name, least)
    told = commands(PAGE)
    assert [words[1] for words in told] == [
        *("run", "check-data", "report", "predict"),
        *("synth", "evaluate", "evaluate", "compare", "demo"),
    ]
    for program, *words in map(small, told):
        ended = CliRunner().invoke(PROGRAMS[program], words, catch_exceptions=False)
        assert ended.exit_code == 0, (words, ended.output)
    run = tmp_path / "runs" / "mtc_tour-compressed"
    bundle = read_bundle(run / "mtc_tour_student.mtc")
    assert set(bundle.manifest.variants) == {"fp32", "int8-ort"}
    pictures = [path.stem for path in (tmp_path / "out" / "tour").glob("*.jpg")]
    assert len(pictures) == 2
    assert list((tmp_path / "out" / "compression").glob("*.html"))
    assert (tmp_path / "out" / "replay" / "tour_int8" / "against_tour_fp32" / "index.html").exists()
    assert (tmp_path / "out" / "tour_node" / "index.html").exists()
