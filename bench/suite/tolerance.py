"""How much of a metric, as a suite file says it: ``"3%"``, ``"16 MiB"``, ``"0.5 points"``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from bench.metrics.metric import Metric
from bench.metrics.units import BYTES


@dataclass(frozen=True)
class Tolerance:
    """How far a metric may be from a base's: a share of the base's value, or a difference in the metric's own unit."""

    scale: Literal["ratio", "difference"]
    value: float
    text: str

    def __str__(self) -> str:
        return self.text


def share(text: object, key: str) -> float:
    """A percentage as a share.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%\s*", text) if isinstance(text, str) else None
    if not found or float(found[1]) >= 100:
        raise ValueError(f'{key}: a percentage below 100, as in "3%", found {text!r}')
    return float(found[1]) / 100


def tolerance(key: str, text: object, metric: Metric | None) -> Tolerance:
    """What `text` allows for `metric`, or for quality that is a fraction where that is None. An error names the `key`.

    Raises:
        ValueError: the unit is not one of the metric's.
    """
    unit, family = (metric.unit, metric.family) if metric else ("fraction", "quality")
    fits = _fitting(unit, family)
    example = {"%": "3%", "bytes": "16 MiB", "points": "0.5 points"}.get(fits[0], f"0.01 {fits[0]}")
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([^\s0-9].*?)?\s*", text) if isinstance(text, str) else None
    given = (found[2] or "") if found else ""
    if found and "%" in fits and given == "%":
        return Tolerance("ratio", share(text, key), str(text).strip())
    if found and "bytes" in fits and given in BYTES:
        return Tolerance("difference", float(found[1]) * BYTES[given], str(text).strip())
    if found and "points" in fits and given in ("points", "point"):
        return Tolerance("difference", float(found[1]) / 100, str(text).strip())
    if found and given in fits:
        return Tolerance("difference", float(found[1]), str(text).strip())
    known = ", ".join(BYTES) if "bytes" in fits else ""
    said = " or ".join(f"bytes ({known})" if each == "bytes" else "%" if each == "%" else each for each in fits)
    raise ValueError(f'{key}: its tolerance is in {said}, as in "{example}", found {text!r}')


def _fitting(unit: str, family: str) -> list[str]:
    if family == "quality":
        return ["points"] if unit == "fraction" else [unit]
    return ["bytes", "%"] if unit == "B" else ["%"]
