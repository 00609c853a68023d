"""Models of what users and other programs write."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Fields are what is written here, no others; they are finite and do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
