"""What a tracker is sent, and what it must do with it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from bench.compare.compare import Alone, Comparisons
from bench.compare.rows import NOT_RUN


@dataclass(frozen=True)
class Entry:
    """What a tracker is sent of one cell, for a run of its own there.

    ``id`` is of the cell's last stage. ``project`` is the suite's title, of letters, digits and dashes alone. ``config`` has
    recipe, arguments, budget, machine, versions, the unit of each figure and how it ended. ``curve`` has, by the step over
    all training stages, from 1, the ``loss`` in nats, and the ``seconds`` and the ``tokens`` of training until then; steps
    whose loss is not finite are left out. Where the model was scored on the validation split, it has ``validation_`` and the
    metric's name. ``figures`` are by our metrics' names, in their units.
    """

    id: str
    name: str
    project: str
    group: str
    ok: bool
    config: Mapping[str, str | int | float | bool]
    curve: Mapping[int, Mapping[str, float]]
    figures: Mapping[str, float]

    @property
    def steps(self) -> int:
        """The last step of the curve; 1 where there is none."""
        return max(self.curve, default=1)

    @property
    def digest(self) -> str:
        """Of all of it but the version that asks: another one says that there is something new to send."""
        whole = asdict(self)
        whole["config"].pop("methodbench", None)
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]


class Tracker(Protocol):
    """Sends entries to one place."""

    def __init__(self, folder: Path) -> None:
        """For the results in `folder`, where all that is local lies unless the tracker's own variables say otherwise."""

    @property
    def place(self) -> str:
        """Where entries are now, and how they are seen, for a reader."""

    def send(self, entry: Entry) -> None:
        """Make a run of `entry`, in place of one that was made of the same cell before. All of it is there on return.

        Raises:
            Exception: it could not be sent, whatever the library calls that.
        """


def entries(found: Comparisons, node: str | None = None) -> Iterator[Entry]:
    """Each cell that has ended, once; with a `node`, those that have this stage."""
    seen = set()
    for each in found.alone(node):
        # Recipes of one text share their stages, whatever their names.
        if each.row.status != NOT_RUN and each.cell.path and each.cell.path[-1] not in seen:
            seen.add(each.cell.path[-1])
            yield _entry(each)


def _entry(each: Alone) -> Entry:
    cell, row = each.cell, each.row
    return Entry(
        id=cell.path[-1],
        name=f"{cell.name}, seed {cell.seed}",
        project=re.sub("[^A-Za-z0-9]+", "-", each.run.title).strip("-")[:100] or "methodbench",
        group=f"{cell.model} on {cell.task}",
        ok=row.ok,
        config={key: value for key, value in _config(each) if value not in (None, "")},
        curve=_curve(each),
        figures={name: figure.value for name, figure in row.figures.items()},
    )


def _config(each: Alone) -> Iterator[tuple[str, str | int | float | bool]]:
    run, cell, row = each.run, each.cell, each.row
    ending = row.endings[0]
    yield from (("name", cell.name), ("recipe", cell.recipe), ("arguments", " >> ".join(row.arguments)))
    yield from (("model", cell.model), ("task", cell.task), ("seed", cell.seed), ("suite", run.title))
    yield from (("status", ending.status), ("stage", ending.stage), ("reason", ending.reason))
    yield from (("methodbench", run.version or ""), ("contended", "; ".join(row.contended)))
    for node in each.path[-1:]:
        budget = node.budget if isinstance(node.budget, Mapping) else {}
        yield from ((f"budget.{name}", _plain(value)) for name, value in budget.items() if value is not None)
        machine = node.environment and node.environment.machine
        yield from ((f"machine.{name}", _plain(value)) for name, value in (machine.settings() if machine else ()))
    yield from ((f"unit.{name}", figure.metric.unit) for name, figure in row.figures.items())


def _plain(value: object) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else json.dumps(value, default=str)


def _curve(each: Alone) -> dict[int, dict[str, float]]:
    losses = each.row.losses.get(each.cell.seed, ())
    clock = dict(zip(("seconds", "tokens"), each.row.clock.get(each.cell.seed, ((), ())), strict=True))
    known = {name: values for name, values in clock.items() if len(values) == len(losses)}
    found = {
        step: {"loss": loss, **{name: values[step - 1] for name, values in known.items()}}
        for step, loss in enumerate(losses, start=1)
        if math.isfinite(loss)
    }
    for step, metrics in each.row.validation.get(each.cell.seed, ()):
        scores = {f"validation_{name}": value for name, value in metrics.items() if value is not None}
        found.setdefault(step, {}).update(scores)
    return dict(sorted(found.items()))
