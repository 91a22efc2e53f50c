"""What is timed side by side: the training of a recipe, its inference, or a script. And what is said about it between processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SCRIPT_SECONDS, SCRIPT_BYTES = "script_seconds", "script_peak_bytes"
"""The figures of a script: CPU seconds of its process and of those that it waited for, and its highest resident bytes."""


Kind = Literal["train", "serve", "script"]


@dataclass(frozen=True)
class Case:
    """One thing that a worker prepares and repeats.

    ``timed`` names the metrics that a repeat gives seconds of, each for one unit of its own: a token of training, a pass, a
    token that is generated, a whole script. ``held`` names those whose bytes the worker tells once. ``refused`` says why it
    cannot be timed; empty where it can.
    """

    name: str
    recipe: str
    kind: Kind
    timed: tuple[str, ...]
    held: tuple[str, ...] = ()
    refused: str = ""


@dataclass(frozen=True)
class Timing:
    """Seconds for each unit in one repeat, by each clock: the process's CPU time, wall time, and events of the GPU."""

    wall: float
    cpu: float
    cuda: float | None = None

    def by(self, clock: str) -> float:
        """Those of the clock that decides: "cpu", "cuda" or "wall"."""
        seconds: float | None = getattr(self, clock)
        assert seconds is not None, f"no {clock} clock ran"
        return seconds
