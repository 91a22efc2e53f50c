"""The ``[gate]`` table of a suite: what may become how much worse, and how the gate looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.metrics import registry
from bench.metrics.metric import Metric
from bench.recipe.errors import nearest
from bench.suite.tolerance import Tolerance, share, tolerance

GATED: Mapping[str, tuple[str, ...]] = {
    "throughput": ("train_tokens_per_second",),
    "peak_memory": ("train_peak_bytes", "inference_peak_bytes"),
    "size": ("size_on_disk",),
    "flops": ("step_flops",),
}
"""Short keys, and the metrics that they stand for. ``latency`` stands for all latencies, ``quality`` for what ranks the
recipes, ``seconds`` for the time of a script; any other key is a metric's own name."""

SHORT = ("throughput", "latency", "peak_memory", "size", "flops", "quality", "seconds")


class GateTable(BaseModel):
    """What a gate holds and how. All other keys are metrics, each with the change for the worse that it may make."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    package: str | None = Field(
        None,
        description="the package to build of each revision, as a path from the repository's root; the root itself where "
        "there is a pyproject.toml",
    )
    scripts: dict[str, str] = Field(
        {},
        description='name and command line of Python scripts that are timed whole, as `train = "train.py --steps 20"`',
    )
    margin: str = Field("1%", description="a slowdown up to this does not matter, however certain it is")
    alpha: float = Field(0.01, gt=0, le=0.2, description="probability of any false alarm in the whole gate")
    max_pairs: int = Field(20, ge=6, le=40, description="pairs of measurements at most, before an alarm is confirmed")
    repeats: int = Field(6, ge=6, le=1000, description="timed repeats of each process in a pair")

    @model_validator(mode="after")
    def _known(self) -> GateTable:
        share(self.margin, "margin")
        for key, value in self.allowed().items():
            tolerance(key, value, _metric(key))
        if not self.allowed():
            raise ValueError('nothing is gated; name a metric and what it may lose, as in `throughput = "3%"`')
        return self

    def allowed(self) -> dict[str, Any]:
        """The keys that are metrics, with their tolerances as they were written."""
        return dict(self.model_extra or {})

    def tolerance_of(self, metric: Metric, primary: str | None = None) -> Tolerance | None:
        """What `metric` may lose; None where it is not gated. `primary` is the metric that ranks the recipes."""
        allowed = self.allowed()
        keys = [metric.name, *(key for key, names in GATED.items() if metric.name in names)]
        if metric.family == "latency":
            keys.append("latency")
        if metric.name == primary:
            keys.append("quality")
        if metric.name == "script_seconds":
            keys.append("seconds")
        if metric.name == "script_peak_bytes":
            keys.append("peak_memory")
        key = next((key for key in keys if key in allowed), None)
        return None if key is None else tolerance(key, allowed[key], metric)


def _metric(key: str) -> Metric | None:
    """The metric whose unit the tolerance of `key` is in; None for ``quality``, which each task has its own of."""
    if key == "quality":
        return None
    names = {"latency": "latency_1x16", "seconds": "train_seconds"}
    try:
        metric = registry.metric(names.get(key, GATED.get(key, (key,))[0]))
    except KeyError:
        known = [*SHORT, *GateTable.model_fields, *registry.metrics()]
        raise ValueError(f"{key}: no metric is called so, nor a setting of the gate{nearest(key, known)}") from None
    paired = {"train_tokens_per_second", "train_peak_bytes", "inference_peak_bytes"}
    if key not in names and not (metric.exact or metric.family in ("quality", "latency") or metric.name in paired):
        raise ValueError(
            f"{key}: it is measured once and has noise, so no gate can tell by it; gate throughput, latency, peak_memory, "
            "seconds (of scripts), quality, or what is counted exactly, such as size or flops"
        )
    return metric
