"""What is said of a stage's result, and whether it holds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """One thing that must hold if the method was applied, whether it does, and what was seen."""

    text: str
    holds: bool
    seen: str
