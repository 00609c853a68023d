"""`python -m bench.parts`: whose time is whose, on real engines."""

import json
from pathlib import Path

import pytest
import torch

from bench.parts import ENGINES, by_part, main
from offline_compress.models.registry import ModelSpec, save_checkpoint
from support.tiny_networks import TINY, TINY_QUERIES


def test_operations_count_where_their_names_lie() -> None:
    found = by_part(
        {
            "/model/backbone/stem/conv/Conv": 1.0,
            "/model/detection_gates.0/Mul": 2.0,
            "/model/detection_head/layers.1/cross_attention/GridSample": 4.0,
            "/model/detection_head/layers.1/self_attention/MatMul": 256.0,
            "/model/detection_head/layers.1/feed_forward/MatMul": 8.0,
            "/model/detection_head/TopK": 16.0,
            "/model/detection_head/project.0/conv/Conv": 128.0,
            "/Cast": 32.0,
            "image": 64.0,
        }
    )
    assert found == {
        "backbone": 1.0,
        "gates": 2.0,
        "decoder: sampling": 4.0,
        "decoder: attention among queries": 256.0,
        "decoder: rest of the layers": 8.0,
        "decoder: choice of queries": 16.0,
        "detection head: rest": 128.0,
        "pixels in, answers out": 96.0,
    }


def test_every_part_of_a_network_takes_its_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    networks = {"dense": ("conv_multitask", TINY), "queries": ("rmt_ppad", TINY_QUERIES)}
    paths = []
    for name, (architecture, arguments) in networks.items():
        spec = ModelSpec(name, architecture, arguments, ["vehicle"], 64, 96)
        save_checkpoint(tmp_path / name, spec, spec.build())
        paths.append(str(tmp_path / name))
    assert main([*paths, "--results", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    rows = json.loads((tmp_path / "parts.json").read_text())["networks"]
    for engine in ENGINES:
        dense, queries = (row["ms"][engine] for row in rows)
        assert {"backbone", "encoder", "detection head: rest", "masks"} <= dense.keys()
        own = {
            "gates",
            "encoder: attention",
            "decoder: sampling",
            "decoder: attention among queries",
            "decoder: choice of queries",
        }
        assert own <= queries.keys() - dense.keys()
        assert engine in told
        assert min(*dense.values(), *queries.values()) > 0
    assert main([str(tmp_path), "--results", str(tmp_path)]) == 2
    assert "is no checkpoint" in capsys.readouterr().err
