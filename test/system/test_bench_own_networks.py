"""The examples with random weights, on a stand-in, and the bench that tells of them."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from bench.own_networks import EXAMPLES, main
from mtc_perception.core.bundle import read_bundle
from offline_compress import api
from offline_compress.api import Description, Mask, NetworkMap
from support.checkout import ROOT
from support.stand_ins import YoloLike

PAGE = """<!-- numbers: written by `python -m bench.own_networks` -->
<!-- end of numbers -->
"""


def masks(output: list[torch.Tensor]) -> list[torch.Tensor]:
    return output[1:]


def test_half_of_a_network_goes_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    from halving import finish, halved  # type: ignore[import-not-found]

    torch.manual_seed(0)
    network, image = YoloLike().eval(), torch.zeros(1, 3, 64, 96)
    own = Description(
        example=(image,),
        tasks={"masks": lambda output, _batch: output[1].mean() + output[2].square().mean()},
        answers=masks,
        opaque=("detect",),
    )
    batches = [(torch.rand(2, 3, 64, 96),)]
    with monkeypatch.context() as nothing_off:
        nothing_off.setattr(api, "switch_off", lambda *_: None)
        assert halved(network, own, batches)[1]["largest_difference"] > 0.01
    small, figures = halved(network, own, batches)
    assert figures["largest_difference"] < 1e-9
    assert 0.2 < figures["share_of_parameters_left"] < 0.8
    assert figures["groups_that_may_lose_channels"] < figures["groups"]
    described = NetworkMap(lane=Mask(output="output.2", values="share"))
    for example in EXAMPLES:
        finish(tmp_path / example, network, small, image, described, figures)
    whole = read_bundle(tmp_path / "yolop" / "whole.mtc").manifest
    assert read_bundle(tmp_path / "yolop" / "small.mtc").manifest.gmacs < 0.55 * whole.gmacs

    points = {"road lane IoU": 50.0}
    rows = dict.fromkeys(("public", "adapted", "control"), points) | {
        "pruned": {"road lane IoU": 49.5}
    }
    (tmp_path / "twinlitenet" / "figures.json").write_text(json.dumps(rows))
    monkeypatch.chdir(tmp_path)
    Path("docs").mkdir()
    Path("docs/own_network.md").write_text(PAGE)
    assert main([".", "--no-latency"]) == 0
    page = Path("docs/own_network.md").read_text()
    assert "| pruned, against trained as long | -0.5 |" in page
    assert f"| YOLOP, 96x64, random weights | {figures['groups']} |" in page
    assert main([".", "--no-latency"]) == 0
    assert Path("docs/own_network.md").read_text() == page
    for gone in ("yolop", "hybridnets"):
        shutil.rmtree(gone)
    assert main([".", "--no-latency"]) == 0
    assert Path("docs/own_network.md").read_text() == page, "what was measured before is gone"
    for gone in ("yolop", "hybridnets"):
        Path(f"results/own_{gone}.json").unlink()
    assert main([".", "--no-latency"]) == 0
    page = Path("docs/own_network.md").read_text()
    assert "| pruned, against trained as long | -0.5 |" in page
    assert "have not been run" in page
    shutil.rmtree("twinlitenet")
    assert main(["."]) == 2
    assert "no figures of twinlitenet, yolop, hybridnets: run examples/" in capsys.readouterr().err
