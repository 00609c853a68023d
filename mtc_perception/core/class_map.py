"""Detection classes, and which categories of labels each of them takes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import model_validator
from typing_extensions import Self

from mtc_perception.core.truth import GroundTruth
from mtc_perception.util.errors import UserError
from mtc_perception.util.strict import Strict

VEHICLE = "vehicle"
"""The class that takes every kind of vehicle, unless it is told otherwise."""
VEHICLES = (
    *(VEHICLE, "vehicles", "car", "bus", "truck", "train", "van", "caravan"),
    *("autorickshaw", "on rails", "suvpickuptruck", "tram", "truck bus"),
)
"""Kinds of vehicles as public data sets call them. BDD100K counts a van and a caravan as cars;
YOLOP and A-YOLOM have its car, bus, truck and train as one class."""
IGNORED_VEHICLES = (
    *("other vehicle", "trailer"),  # BDD100K leaves these out of its own evaluation
    *("dontcare", "vehicle fallback", "vehicle group"),
)
"""What is no target where vehicles are, and no false alarm either."""
EVERY_CLASS = -1
"""Label of an ignore region that is one for all classes."""


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", " ").replace("-", " ")


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """Labelled boxes of one image in a network's classes."""

    boxes: npt.NDArray[np.floating]
    """[n, 4] x1, y1, x2, y2, as in the labels."""
    ignore: npt.NDArray[np.bool_]
    """[n] ignore regions."""
    labels: npt.NDArray[np.int64]
    """[n] class index; of ignore regions also EVERY_CLASS."""


class ClassMap(Strict):
    """Names of categories are the same in small and capital letters, with `_`, `-` or a space."""

    classes: dict[str, tuple[str, ...]]
    """Categories of each class, by its name and in the order of the network. A class takes the
    category of its own name, too."""
    ignore: tuple[str, ...] = ()
    """Categories that are ignore regions: no targets, and no false alarms where they are found."""
    background: tuple[str, ...] | Literal["rest"] = ()
    """Categories that are nothing to be found; rest: all that are not named."""

    @classmethod
    def of(cls, names: Sequence[str]) -> "ClassMap":
        """Each class takes the category of its name; `vehicle` takes every kind of vehicle.

        Where that is the only class, all other categories are background.
        """
        own = {_plain(name) for name in names}
        vehicles = own & {VEHICLE, f"{VEHICLE}s"}

        def taken(name: str) -> tuple[str, ...]:
            if _plain(name) not in vehicles:
                return ()
            return tuple(kind for kind in VEHICLES if kind == _plain(name) or kind not in own)

        return cls(
            classes={name: taken(name) for name in names},
            ignore=tuple(kind for kind in IGNORED_VEHICLES if vehicles and kind not in own),
            background="rest" if vehicles == own else (),
        )

    @property
    def names(self) -> list[str]:
        """Of the classes, in the order of the network."""
        return list(self.classes)

    def index(self, category: str) -> int | None:
        """Class index of a category, EVERY_CLASS of an ignored one, None of background."""
        return self._indices.get(_plain(category))

    def knows(self, category: str) -> bool:
        """Whether it is said what becomes of a category."""
        if self.background == "rest" or self.index(category) is not None:
            return True
        return _plain(category) in map(_plain, self.background)

    def require(self, categories: Iterable[str], where: str) -> None:
        """Raise UserError unless it is said what becomes of all `categories` of the labels of
        `where`; where the rest is background, not all of them may be. Without classes all is well.
        """
        found = sorted(set(categories))
        lost = [name for name in found if not self.knows(name)]
        if self.background == "rest" and all(self.index(name) is None for name in found):
            lost = found
        if lost and self.classes:
            raise UserError(
                f"the labels of {where} are of {', '.join(lost)}, which no class takes; the "
                f"classes are {self}: name each of these in `classes`, `ignore` or `background` "
                "of the recipe"
            )

    def require_all(self, categories: Iterable[str]) -> None:
        """Raise UserError if the labels, which have these `categories`, are of some classes and of
        others not."""
        found = sorted(set(categories))
        taken = {self.index(name) for name in found} - {None, EVERY_CLASS}
        if taken and (lost := [one for at, one in enumerate(self.names) if at not in taken]):
            raise UserError(
                f"no label is of class {', '.join(lost)}; the labels are of {', '.join(found)}, "
                f"the classes are {self}: leave out a class, or name what it takes in `classes`"
            )

    def takers(self, categories: Iterable[str]) -> str:
        """What becomes of the `categories` of labels: of which class each is, or of none."""
        by_index: dict[int | None, list[str]] = {}
        for category in sorted(set(categories)):
            by_index.setdefault(self.index(category), []).append(category)
        owners: dict[int | None, str] = dict(enumerate(self.names))
        owners |= {EVERY_CLASS: "ignored", None: "background"}
        return "; ".join(
            f"{owner}: {', '.join(by_index[index])}"
            for index, owner in owners.items()
            if index in by_index
        )

    def objects(self, truth: GroundTruth) -> Objects:
        """The labelled boxes of an image without those of background; `truth.boxes` is not None.

        Boxes without categories are of the first class.
        """
        boxes = np.asarray(truth.boxes).reshape(-1, 4)
        ignore = np.zeros(len(boxes), np.bool_) if truth.ignore is None else truth.ignore
        if len(ignore) != len(boxes):
            raise ValueError(f"{len(boxes)} labels but {len(ignore)} ignore flags")
        if truth.categories is None:
            return Objects(boxes, ignore, np.zeros(len(boxes), np.int64))
        found = [self.index(category) for category in truth.categories]
        kept = np.array([index is not None for index in found], np.bool_)
        labels = np.array([index for index in found if index is not None], np.int64)
        return Objects(boxes[kept], ignore[kept] | (labels == EVERY_CLASS), labels)

    def __str__(self) -> str:
        """The classes with what they take."""
        return ", ".join(
            f"{name} ({', '.join(taken)})" if taken and {*taken} != {name} else name
            for name, taken in self.classes.items()
        )

    @cached_property
    def _indices(self) -> dict[str, int]:
        """Of every category that is no background, by its plain name."""
        found = {_plain(name): EVERY_CLASS for name in self.ignore}
        for index, (name, taken) in enumerate(self.classes.items()):
            found |= dict.fromkeys(map(_plain, (name, *taken)), index)
        return found

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        background = () if self.background == "rest" else self.background
        takers = [(name, *taken) for name, taken in self.classes.items()]
        seen: set[str] = set()
        for taken in (*takers, self.ignore, background):
            for name in {_plain(one) for one in taken}:
                if name in seen:
                    raise ValueError(f"it is said twice what becomes of category {name}")
                seen.add(name)
        return self


VEHICLE_CLASSES = ClassMap.of([VEHICLE])
"""What networks of the project's own recipes find."""
