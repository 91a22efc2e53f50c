"""What is timed side by side: the training of a recipe, its inference, or a script. And what is said about it between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bench.metrics.metric import Metric

SCRIPT_SECONDS, SCRIPT_BYTES = "script_seconds", "script_peak_bytes"
OF_SCRIPTS = {
    metric.name: metric
    for metric in (
        Metric(
            SCRIPT_SECONDS, "Time of the script", "s", "lower", "time",
            "time of the script's whole process and of those that it waited for", lambda path: None,
        ),
        Metric(
            SCRIPT_BYTES, "Memory of the script", "B", "lower", "memory",
            "the most resident bytes that one of the script's processes held", lambda path: None,
        ),
    )
}  # fmt: skip
"""The figures of a script, which no record has."""


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

    @classmethod
    def read(cls, table: Mapping[str, Any]) -> Case:
        """The case that another process wrote as JSON, where a tuple becomes a list."""
        return cls(**{**table, "timed": tuple(table["timed"]), "held": tuple(table["held"])})
