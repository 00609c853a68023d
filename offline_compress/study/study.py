"""What a study says: which drives are held out, which networks are compared, by which margins."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, ValidationError, model_validator

from mtc_perception.metrics.figures import ACCURACY
from mtc_perception.util.errors import UserError
from mtc_perception.util.strict import Strict
from offline_compress.recipe.parts import DataRoot, DataSource, Positive, set_names
from offline_compress.recipe.yaml_file import read_yaml

TEACHER = "teacher"
"""Name of the row that every study has: the unpruned network of a fold."""
Name = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
Patterns = Annotated[list[str], Field(min_length=1)]


class HeldOut(Strict):
    """A data set of several drives, of which each is held out once."""

    root: DataRoot
    splits: Annotated[list[str], Field(min_length=1)]
    drives: Annotated[dict[Name, Patterns], Field(min_length=2)]
    """Name of a drive -> patterns of its images' names. The folds of the study."""
    thin: dict[str, Positive] = Field(default_factory=dict)
    """As of a data source, in training and in what is reported."""
    conditions: dict[Name, dict[Name, Patterns]] = Field(default_factory=dict)
    """As `mtc-compress evaluate --conditions` takes them: each has a line of its own."""


class Row(Strict):
    """One network in all folds, with every seed."""

    name: Name
    kind: Literal["control", "student", "direct"]
    """control: the teacher, not pruned, through the recovery; student: pruned, then recovered;
    direct: another network through the very trainings of teacher and control."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Fields of the recipe by dotted name, as `mtc-compress run --set` takes them."""
    pruned_by: Name | None = None
    """A student's row before, whose pruned network this one recovers in another way; None: its own.
    """

    @model_validator(mode="after")
    def _recovers(self) -> "Row":
        if self.pruned_by is None:
            return self
        if self.kind != "student":
            raise ValueError(f"row {self.name}: pruned_by is for a student")
        if other := [name for name in self.set if not name.startswith("compress.recover.")]:
            raise ValueError(
                f"row {self.name}: {other[0]} has no say in a row with pruned_by, which changes "
                "compress.recover alone"
            )
        return self


class Study(Strict):
    """One comparison of networks."""

    name: Name
    recipe: Path
    """Of the teacher; its `compress` prunes the students and is everybody's recovery."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Fields of the recipe for every row."""
    held_out: HeldOut
    evaluate_on: list[DataSource] = Field(default_factory=list)
    """Further data sets that every network is reported on; none of their images is learnt from."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = Field(
        default_factory=lambda: [0]
    )
    """Of recoveries. What precedes them (teacher, pruning, a direct network's first training) is
    made once per fold and row: it takes most of the time."""
    rows: Annotated[list[Row], Field(min_length=1)]
    reference: Name
    """The row that all others are compared with."""
    margins: dict[str, PositiveFloat]
    """Figure -> points: a row whose difference to the reference has its whole interval within
    them is equivalent. Stated before the run: they are kept with it."""

    @model_validator(mode="after")
    def _names(self) -> "Study":
        names = self.row_names
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two rows have the name {twice.pop()}")
        if self.reference not in names:
            raise ValueError(f"the reference {self.reference} is none of {', '.join(names)}")
        own: set[str | None] = {None}
        for row in self.rows:
            if row.pruned_by not in own:
                raise ValueError(
                    f"row {row.name}: pruned_by is to name a student before it that is pruned"
                )
            own |= {row.name} if row.kind == "student" and not row.pruned_by else set()
        if unknown := sorted(self.margins.keys() - ACCURACY.keys()):
            raise ValueError(f"margins: no figure {unknown[0]}; known: {', '.join(ACCURACY)}")
        return self

    def pruning_row(self, row: Row) -> Row:
        """The row that a student's network is pruned by."""
        return next((one for one in self.rows if one.name == row.pruned_by), row)

    @property
    def row_names(self) -> list[str]:
        """All rows, the teacher first."""
        return [TEACHER, *(row.name for row in self.rows)]

    @property
    def further_sets(self) -> list[str]:
        """What the sets of `evaluate_on` are called."""
        return set_names(self.evaluate_on)


def load_study(path: Path) -> Study:
    """Read and validate a study. Raises UserError naming the file and every wrong field."""
    try:
        return Study.model_validate(read_yaml(path, "study"))
    except ValidationError as error:
        wrong = "; ".join(_complaint(one["loc"], one["msg"]) for one in error.errors())
        raise UserError(f"study {path}: {wrong}") from None


def _complaint(place: Sequence[int | str], message: str) -> str:
    name = ".".join(map(str, place)) or "file"
    return f"{name}: {message.removeprefix('Value error, ')}"
