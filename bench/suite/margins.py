"""The ``[compare]`` table of a suite: which differences do not matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.metrics import registry
from bench.metrics.metric import Metric
from bench.recipe.errors import nearest
from bench.suite.tolerance import share, tolerance


@dataclass(frozen=True)
class Margins:
    """Up to where two recipes are the same.

    ``quality`` is a difference where quality is a fraction, such as accuracy, and a share of the baseline's figure where it
    is not, such as perplexity. ``cost`` is a share: ratios from 1 / (1 + cost) to 1 + cost. ``own`` has the metrics of
    quality that have a margin of their own, by name, in their units.
    """

    quality: float = 0.01
    cost: float = 0.02
    own: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def recorded(cls, margins: Mapping[str, float]) -> Margins:
        """Those of a run's record; the defaults where it has none."""
        own = {name: margin for name, margin in margins.items() if name not in ("quality", "cost")}
        return cls(margins.get("quality", cls.quality), margins.get("cost", cls.cost), own)

    def record(self) -> dict[str, float]:
        """What a run's record holds of them."""
        return {"quality": self.quality, "cost": self.cost, **self.own}

    def of(self, metric: Metric, baseline: float) -> float:
        """The margin of `metric`: a share for a cost, else in its unit, beside the baseline's figure."""
        if metric.family != "quality":
            return self.cost
        if metric.name in self.own:
            return self.own[metric.name]
        return self.quality if metric.unit == "fraction" else self.quality * abs(baseline)


class CompareTable(BaseModel):
    """The margins of a comparison. All other keys are metrics of quality, each with a margin of its own."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    margin: str = Field(
        "1 point",
        description="a difference of quality up to this does not matter; where quality is no fraction, as many percent of "
        "the baseline's figure",
    )
    cost_margin: str = Field("2%", description="a ratio of costs up to this does not matter")

    @model_validator(mode="after")
    def _known(self) -> CompareTable:
        self.margins()
        return self

    def margins(self) -> Margins:
        """The margins as numbers.

        Raises:
            ValueError: one is in a wrong unit, or of what is no metric of quality.
        """
        own = {key: tolerance(key, text, _quality(key)).value for key, text in (self.model_extra or {}).items()}
        return Margins(tolerance("margin", self.margin, None).value, share(self.cost_margin, "cost_margin"), own)


def _quality(key: str) -> Metric:
    known = {name: metric for name, metric in registry.metrics().items() if metric.family == "quality"}
    if key not in known:
        why = "no metric of quality is called so, nor a setting of [compare]"
        raise ValueError(f"{key}: {why}{nearest(key, [*known, *CompareTable.model_fields])}")
    return known[key]
