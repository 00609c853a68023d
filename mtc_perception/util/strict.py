"""Models of what users and other programs write."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic._internal._model_construction import ModelMetaclass

from mtc_perception.util.errors import UserError


class Strict(BaseModel):
    """Fields are what is written here, no others; they are finite and do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def wrong_fields(error: ValidationError) -> str:
    """What is wrong with which fields, in one line."""
    places = (".".join(map(str, one["loc"])) for one in error.errors())
    reasons = (one["msg"].removeprefix("Value error, ") for one in error.errors())
    return "; ".join(
        f"{place}: {reason}" if place else reason
        for place, reason in zip(places, reasons, strict=True)
    )


class _InOneLine(ModelMetaclass):
    def __call__(cls, *args: Any, **fields: Any) -> Any:
        try:
            return super().__call__(*args, **fields)
        except ValidationError as error:
            raise UserError(f"{cls.__name__}: {wrong_fields(error)}") from None


class Spelled(Strict, metaclass=_InOneLine):
    """Models that programs of users spell out, too: making one raises UserError for what is wrong.

    What is read from files is validated as ever, by pydantic, which makes no calls."""
