"""Every command that writes, on a disk that is full: one line, nothing lost, nothing left."""

import re
import shutil
from pathlib import Path
from typing import get_args

import pytest

from mtc_perception.core.bundle import EngineName
from mtc_perception.engines.tensorrt.library import installed_flavours
from offline_compress.models.registry import model_spec, save_checkpoint
from offline_compress.roads.road_dataset import write_dataset
from support.replay_rig import evaluate, labelled_bag, run
from support.small_disk import on_small_disk
from support.toy_bundle import write_toy_bundle

pytestmark = pytest.mark.slow

COMPRESS = ("-m", "offline_compress.cli")
REPLAY = ("-m", "mtc_perception.replay.cli")
ENGINE, STORE = ("-m", "mtc_perception.commands.engine"), ("--store", "store")
NETWORK = ("-b", "toy.mtc", "--engine", "onnxruntime", "--threads", "1")
LABELLED = ("--data", "roads", "--split", "train", "--out", "result")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands take, and results that they would replace."""
    disk = tmp_path_factory.mktemp("disk") / "disk"
    disk.mkdir()
    write_dataset(disk / "roads", 3, 192, 128, seed=3, workers=1)
    bundle = write_toy_bundle(disk / "toy.mtc", engines=get_args(EngineName))
    spec = model_spec("mtc_xs", ["vehicle"], 64, 96)
    save_checkpoint(disk / "best", spec, spec.build())
    bag = labelled_bag(disk / "drive")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(disk)
        for name in ("one", "other"):
            evaluate(Path(name), Path(bundle.name), bag.name)
        assert run("compare", "one", "other", "--out", "against") == 0
    return disk


@pytest.mark.fault(
    area="disk",
    row="the disk is full under any command of mtc-compress, mtc-replay or mtc-engine",
    answer="Exit code 2; results that are there stay, nothing half-written is left but what "
    "the same command goes on from (`synth dataset`: `NAME.partial`).",
    diagnostics="One line: the file, that the disk is full, what to do.",
)
@pytest.mark.parametrize(
    ("free_kib", "command"),
    [
        (100, (*COMPRESS, "export", "best", "new.mtc")),
        (100, (*COMPRESS, "export", "best", "new.mtc.zip")),
        (100, (*COMPRESS, "export", "best", "toy.mtc", "--force")),
        (4, (*COMPRESS, "assess", "toy.mtc", "--data", "roads", "--split", "train")),
        (4, (*COMPRESS, "evaluate", "toy.mtc", *LABELLED)),
        (40, (*COMPRESS, "evaluate", "toy.mtc", *LABELLED)),
        (0, (*COMPRESS, "check-data", "roads", "--json", "report.json")),
        (30, (*COMPRESS, "synth", "bag", "new", "--seconds", "1", "--workers", "1")),
        (0, (*REPLAY, "evaluate", "drive", *NETWORK, "--out", "new")),
        (40, (*REPLAY, "evaluate", "drive", *NETWORK, "--out", "new", "--annotate")),
        (40, (*REPLAY, "evaluate", "drive", *NETWORK, "--out", "one", "--fresh")),
        (8, (*REPLAY, "bag", "roads/images/train", "new")),
        (4, (*REPLAY, "compare", "one", "other", "--out", "against")),
        (4, (*REPLAY, "report", "one")),
        (4, (*ENGINE, "build", "toy.mtc", "--flavour", "rtx", "--target", "sm89", *STORE)),
    ],
    ids=lambda value: " ".join(value[2:6]) if isinstance(value, tuple) else str(value),
)
def test_a_full_disk_is_one_line(filled: Path, free_kib: int, command: tuple[str, ...]) -> None:
    if "build" in command and "tensorrt_rtx" not in installed_flavours():
        pytest.skip("tensorrt_rtx is not installed")
    before = {path: path.read_bytes() for path in filled.rglob("*") if path.is_file()}
    ended = on_small_disk(filled, free_kib, command)
    assert ended.code == 2, ended.output + ended.errors
    line = ended.errors.splitlines()[-1]
    assert re.match(r"error: .*\S+: .*No space left on device", line), ended.errors
    assert "Traceback" not in ended.errors
    assert ended.parts() == []
    for path, content in before.items():
        if path.name != ".lock":
            assert (ended.disk / path.relative_to(filled)).read_bytes() == content
    shutil.rmtree(ended.disk)
