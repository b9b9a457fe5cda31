"""The base of the card's parts."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Frozen, without unknown keys, infinities or NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
