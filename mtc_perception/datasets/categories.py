"""What the categories of a data set mean here: vehicles, regions to ignore, or nothing."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from mtc_perception.datasets.sample import VEHICLE
from mtc_perception.datasets.scalabel import IGNORED_VEHICLES, VEHICLES

_VEHICLES = VEHICLES | {
    *(VEHICLE, f"{VEHICLE}s", "autorickshaw", "on rails", "suvpickuptruck", "tram", "truck bus")
}
"""Kinds of vehicles as public data sets call them."""
_IGNORED = IGNORED_VEHICLES | {"dontcare", "vehicle fallback", "vehicle group"}
"""What is no target where vehicles are, and no false alarm either."""


@dataclass(frozen=True, slots=True)
class Roles:
    """What a COCO file's categories are used as, by their identifiers; others are left out."""

    category: str
    """What is in the boxes."""
    targets: frozenset[Any]
    ignored: frozenset[Any] = frozenset()


def roles_of(names: Mapping[Any, str], used: Collection[Any]) -> Roles:
    """Kinds of vehicles are one category, and others beside them none; else one may be `used`.

    `names` are those of all categories, empty where one has none. Raises ValueError for several
    categories that are used, of which none is a kind of vehicle.
    """
    # Exporters list a category above the one that is used.
    found = {one: _plain(name) for one, name in names.items() if one in used}
    vehicles = frozenset(one for one, name in found.items() if name in _VEHICLES)
    if vehicles:
        ignored = frozenset(one for one, name in found.items() if name in _IGNORED)
        return Roles(VEHICLE, vehicles, ignored)
    if len(found) > 1:
        listed = ", ".join(names[one] or str(one) for one in found)
        raise ValueError(f"annotations of {listed}, of which none is a kind of vehicle")
    alone = found or (names if len(names) == 1 else {})
    name = next(map(_plain, (names[one] for one in alone)), VEHICLE)
    return Roles(VEHICLE if not name or name in _VEHICLES else name, frozenset(found))


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", " ").replace("-", " ")
