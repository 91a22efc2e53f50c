"""What a gate found, as data: a check for each recipe and metric. ``gate.json`` holds it; ``reports/gate`` has the words."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from bench.machine import disk

SCHEMA = 1
"""Of ``gate.json``. Its history: 1, the first."""

Ended = Literal["pass", "regression", "inconclusive", "skipped"]
"""``skipped``: nothing is said of it, since one of the sides cannot measure it at all; ``reason`` says why."""


class VerdictError(ValueError):
    """A file of a gate cannot be read. The message names it and says why."""


@dataclass(frozen=True)
class Grown:
    """An operator, or a phase of a step, whose own time grew: seconds in one repeat of the base and of the head."""

    name: str
    base: float
    head: float


@dataclass(frozen=True)
class Check:
    """One metric of one recipe.

    ``metric`` is its registered name, ``title``, ``unit`` and ``better`` are the metric's. ``how``: "pairs" were measured
    side by side, "items" are the same test items and seeds of both, "exact" is counted, "stored" was measured on other
    occasions. ``base`` and ``head`` are in the unit, each the median of its values, which are raw: of pairs, one of each
    process, in their order.

    ``change``, its 95 % ``interval``, the ``tolerance`` and the ``smallest`` detectable change are of one ``scale``, and a
    positive number is worse: "ratio" is a share of the base (0.03: 3 % slower, or larger), "difference" is in the unit.
    ``allowed`` is the tolerance as the suite has it. ``p_value`` is of the one-sided test against the margin, ``level`` what
    it had to be at most. ``clock`` says what timed it: "cpu", "cuda" or "wall", empty where nothing was timed;
    ``wall_change`` is the change by wall time beside it. ``grown`` says where the time went, after an alarm.
    """

    recipe: str
    metric: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    how: Literal["pairs", "items", "exact", "stored"]
    outcome: Ended
    scale: Literal["ratio", "difference"]
    allowed: str
    tolerance: float
    base: float | None = None
    head: float | None = None
    change: float | None = None
    interval: tuple[float, float] | None = None
    smallest: float | None = None
    p_value: float | None = None
    level: float | None = None
    pairs: int = 0
    reason: str = ""
    clock: Literal["cpu", "cuda", "wall", ""] = ""
    wall_change: float | None = None
    base_values: tuple[float, ...] = ()
    head_values: tuple[float, ...] = ()
    grown: tuple[Grown, ...] = ()

    @property
    def name(self) -> str:
        """What tells it from the others: recipe and metric."""
        return f"{self.recipe}: {self.metric}"


@dataclass(frozen=True)
class Side:
    """One of the two that were compared, as its own processes said it.

    ``label`` is what was asked for, such as ``origin/main``; ``commit`` what that is, with ``+changes`` where the working
    tree has some; ``modules`` are the files that the packages under test were imported from, by name; ``environment`` is
    the machine's and the libraries' as a record has it.
    """

    name: Literal["base", "head"]
    label: str
    commit: str = ""
    python: str = ""
    modules: dict[str, str] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """All of a gate. ``doubts`` say why none of its verdicts can be trusted: with one, what is no regression is
    inconclusive. ``notes`` say what else there is to know."""

    suite: str
    checks: tuple[Check, ...]
    base: Side
    head: Side
    started: str
    seconds: float
    alpha: float
    margin: str
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    schema: int = SCHEMA

    @property
    def outcome(self) -> Literal["pass", "regression", "inconclusive"]:
        """The worst of its checks: a regression before all, else what could not be told."""
        ends = {check.outcome for check in self.checks}
        if "regression" in ends:
            return "regression"
        return "pass" if "pass" in ends and "inconclusive" not in ends and not self.doubts else "inconclusive"

    @property
    def status(self) -> int:
        """The exit status: 0 pass, 1 regression, 3 inconclusive. 2 is for what never gets as far as a verdict."""
        return {"pass": 0, "regression": 1, "inconclusive": 3}[self.outcome]

    def json(self) -> str:
        """As ``gate.json`` has it."""
        return json.dumps(asdict(self), indent=1, allow_nan=False)

    def write(self, file: Path) -> None:
        """Write it; a reader sees all of it or none.

        Raises:
            OSError: it cannot be written.
        """
        with disk.atomic(file) as half:
            half.write_text(self.json(), encoding="utf-8")


def read(file: Path) -> Verdict:
    """The verdict in `file`.

    Raises:
        VerdictError: there is none, or it is of another schema.
    """
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VerdictError(f"{file}: cannot be read: {error}") from None
    if not isinstance(table, dict) or table.get("schema") != SCHEMA:
        found = table.get("schema") if isinstance(table, dict) else None
        raise VerdictError(
            f"{file}: it is of schema {found}, and this program reads schema {SCHEMA}; run the gate again"
        )
    try:
        return TypeAdapter(Verdict).validate_python(table)
    except ValidationError as error:
        first = error.errors()[0]
        raise VerdictError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
