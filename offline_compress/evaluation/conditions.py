"""Conditions that images were taken under, where their data set does not say: by file name."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeAlias

from pydantic import TypeAdapter, ValidationError

from mtc_perception.datasets.layout import Sample
from mtc_perception.util.errors import UserError
from offline_compress.recipe.yaml_file import read_yaml

Conditions: TypeAlias = Mapping[str, Mapping[str, list[str]]]
"""Attribute -> its value -> patterns of stems, as `{light: {dusk: ["0001TP*"], day: ["*"]}}`."""


def read_conditions(path: Path) -> Conditions:
    """A YAML file of conditions. Raises UserError if it is none."""
    try:
        content = read_yaml(path, "file of conditions")
        return TypeAdapter(dict[str, dict[str, list[str]]]).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "content"
        raise UserError(f"{path}: {place}: {first['msg']}") from None


def with_conditions(samples: Iterable[Sample], conditions: Conditions) -> Iterator[Sample]:
    """The samples with these attributes as well: of each the first value whose pattern fits."""
    for sample in samples:
        found: dict[str, str] = {}
        for attribute, values in conditions.items():
            for value, patterns in values.items():
                if any(fnmatchcase(sample.stem, pattern) for pattern in patterns):
                    found.setdefault(attribute, value)
        yield replace(sample, attributes=sample.attributes | found)
