"""The ``[tune]`` table of a suite: learning rates that every recipe tries before it is compared."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from bench.tasks.table import Strict

MOST_STEPS = 10**8
"""A bound of a training; more is a slip of the keys."""


class TuneTable(Strict):
    """A grid of learning rates, the same for every recipe, so that all have the same budget of tuning."""

    lr: list[Annotated[float, Field(gt=0, lt=1e6)]] = Field(
        min_length=2,
        max_length=100,
        description="learning rates; each recipe is trained once with each, and keeps the one that is best",
    )
    steps: int | None = Field(
        None, ge=1, le=MOST_STEPS, description="optimizer steps of each trial; those of the budget otherwise"
    )
    by: Literal["validation"] = Field(
        "validation", description="what decides: the task's primary metric on the validation split"
    )

    @field_validator("lr")
    @classmethod
    def _in_order(cls, rates: list[float]) -> list[float]:
        if len(set(rates)) < len(rates):
            raise ValueError("each rate is named once")
        return sorted(rates)
