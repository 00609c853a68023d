"""Which images of a split a data source takes."""

from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtc_perception.util.errors import UserError
from offline_compress.data.labelled import chosen, source_samples
from offline_compress.recipe.parts import DataSource

DRIVES = ("a", "b", "c")
STEMS = st.lists(
    st.builds("{}_{:02}".format, st.sampled_from(DRIVES), st.integers(0, 30)), unique=True
).map(sorted)


def source(**fields: object) -> DataSource:
    return DataSource.model_validate({"root": "roads", "split": "train", **fields})


@given(STEMS, st.sampled_from(DRIVES))
def test_a_drive_and_all_but_it_are_the_split(stems: list[str], drive: str) -> None:
    kept = [stem for stem in stems if stem.startswith(drive)]
    if not kept or len(kept) == len(stems):
        return
    only = chosen(stems, source(only=[f"{drive}*"]))
    others = chosen(stems, source(without=[f"{drive}*"]))
    assert only == kept
    assert sorted(only + others) == stems
    assert not any(fnmatchcase(stem, f"{drive}*") for stem in others)


@given(STEMS, st.integers(1, 9))
def test_a_clip_is_thinned_and_the_rest_is_not(stems: list[str], step: int) -> None:
    clip = [stem for stem in stems if stem.startswith("b")]
    if not clip:
        return
    left = chosen(stems, source(thin={"b*": step}))
    assert [stem for stem in left if stem in clip] == clip[::step]
    assert [stem for stem in left if stem not in clip] == [s for s in stems if s not in clip]


def test_what_is_left_out_is_not_thinned_into_again() -> None:
    stems = ["a_1", "a_2", "a_3", "b_1"]
    assert chosen(stems, source(without=["a_1"], thin={"a*": 2})) == ["a_3", "b_1"]


@pytest.mark.parametrize("field", ["only", "without", "thin"])
def test_a_pattern_that_fits_nothing_is_a_mistake(field: str) -> None:
    with pytest.raises(UserError, match="roads train has no image 0001XX"):
        chosen(["a_1"], source(**{field: {"0001XX*": 2} if field == "thin" else ["0001XX*"]}))


def test_nothing_left_is_a_mistake() -> None:
    with pytest.raises(UserError, match="no image is left"):
        chosen(["a_1"], source(without=["*"]))


def test_the_title_says_what_is_taken() -> None:
    one = source(without=["0001TP*"], thin={"0016E5_08*": 15})
    assert one.title == "roads train without 0001TP* every 15. of 0016E5_08*"
    assert source().title == "roads train"


def test_samples_are_those_chosen(dataset: Path) -> None:
    stems = [sample.stem for sample in source_samples(source(root=dataset))]
    held_out = source_samples(source(root=dataset, without=[stems[0]]))
    assert [sample.stem for sample in held_out] == stems[1:]
