"""What networks are made, pruned and scored with: miniature ones, roads, PyTorch as it was."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from offline_compress.evaluation import latency, speed
from offline_compress.models.registry import model_spec, save_checkpoint
from offline_compress.pruning import channel_choice, problem, registry_subject
from offline_compress.pruning import iterative as schedule
from offline_compress.roads.road_dataset import write_dataset
from support.labelled_roads import DataSet
from support.tiny_training import register


@pytest.fixture(scope="session", autouse=True)
def tiny_model() -> None:
    """`tiny` is a known model, and PyTorch has one thread.

    Tensors this small gain nothing from threads and wait for them on a busy machine.
    """
    register()
    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _quick_stop_watch() -> Iterator[None]:
    """Times are measured in a few runs: no test here depends on what they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "RUNS", 10)
        for name, few in (("LOADS", 1), ("BLOCKS", 2), ("RUNS_PER_BLOCK", 1)):
            patch.setattr(latency, name, few)
        yield


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    yield
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six synthetic roads of 192 x 128 px, all of split `train`; not to be changed."""
    root = tmp_path_factory.mktemp("data") / "roads"
    write_dataset(root, 6, 192, 128, seed=3, workers=1)
    return root


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    """An empty data set to add images to."""
    root = tmp_path / "roads"
    root.mkdir()
    return DataSet(root)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An `mtc_xs` for 192 x 128 px with spread-out answers, so that their order matters."""
    torch.manual_seed(0)
    spec = model_spec("mtc_xs", ["vehicle"], 128, 192)
    spec = replace(spec, data=["roads train"], licence="test", lineage=["trained", "tuned"])
    model = spec.build()
    for parameter in model.detection_head.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias, 0, 0.1)
    path = tmp_path_factory.mktemp("checkpoint") / "c"
    save_checkpoint(path, spec, model)
    return path


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature network to prune, as initialised, for 192 x 128 px."""
    torch.manual_seed(0)
    spec = model_spec("tiny", ["vehicle"], 128, 192)
    path = tmp_path_factory.mktemp("teacher") / "best"
    save_checkpoint(path, spec, spec.build().eval())
    return path


@pytest.fixture(scope="module")
def untimed() -> Iterator[None]:
    """Pruning without its stop watch: the engines themselves are timed in test_pruning_latency."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(channel_choice, "time_pair", lambda *_: (1.0, 2.0, 0.51))
        patch.setattr(problem, "deployed", lambda model, *_, **__: model)
        yield


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what takes seconds and is tested elsewhere: picture, export of every cut."""
    monkeypatch.setattr(schedule, "draw_channels", lambda *_: None)
    monkeypatch.setattr(registry_subject, "check_network", lambda *_: None)
