"""Models of what users and other programs write."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

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


class Spelled(Strict):
    """Models that programs of users spell out, too: making one raises UserError for a mistake."""

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise UserError(f"{type(self).__name__}: {wrong_fields(error)}") from None

    # What is read from files is validated by pydantic as ever, without a call of this.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]
