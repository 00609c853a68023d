"""Data sets are found by name, and what is missing is told before anything is rendered."""

from pathlib import Path

import pytest

from mtc_perception.datasets.layout import LayoutError
from mtc_perception.util.errors import UserError
from offline_compress.ready import make_ready
from offline_compress.recipe.parts import DataSource
from support import mini_data

ROADS = {"count": 1, "width": 64, "height": 64, "seed": 1}


def source(root: Path | str, **fields: object) -> DataSource:
    return DataSource.model_validate({"root": root, "split": "train", **fields})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without data, and without further folders of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MTC_DATA", raising=False)
    return tmp_path


def test_a_name_is_looked_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTC_DATA", f"{place / 'nowhere'}:{place / 'disk'}")
    assert source("camvid").root == Path("data/camvid")
    mini_data.project(place / "disk" / "camvid")
    assert source("camvid").root == place / "disk" / "camvid"
    mini_data.project(place / "data" / "camvid")
    assert source("camvid").root == Path("data/camvid")
    mini_data.project(place / "camvid")
    assert source("camvid").root == Path("camvid")


def test_a_path_is_no_name(place: Path) -> None:
    mini_data.project(place / "data" / "here" / "camvid")
    assert source("here/camvid").root == Path("here/camvid")
    assert source(place / "camvid").root == place / "camvid"


def test_all_that_is_missing_is_told_before_roads_are_rendered(place: Path) -> None:
    roads = source("roads", synthetic=ROADS)
    wanted = [roads, source("camvid"), source("rtk"), source("camvid"), source("bdd100k")]
    with pytest.raises(UserError) as missing:
        make_ready([*wanted, source("other/drive")])
    _, *lines = str(missing.value).split("\n")
    assert [line.split(":")[0].strip() for line in lines] == [
        *("data/camvid", "data/rtk", "data/bdd100k", "other/drive")
    ]
    assert "`mtc-compress convert camvid DOWNLOAD data/camvid`" in lines[0]
    assert "unpack BDD100K there" in lines[2]
    assert not (place / "data").exists()


def test_a_split_that_is_missing_is_told_before_roads_are_rendered(place: Path) -> None:
    mini_data.project(place / "data" / "camvid", "val")
    with pytest.raises(LayoutError, match="data/camvid has no split 'train'; it has: val"):
        make_ready([source("roads", synthetic=ROADS), source("camvid")])
    assert not (place / "data" / "roads").exists()


def test_roads_are_rendered_where_their_name_belongs(place: Path) -> None:
    make_ready([source("roads", synthetic=ROADS)])
    assert len(list((place / "data" / "roads" / "images" / "train").iterdir())) == 1
