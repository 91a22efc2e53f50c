"""What a run times when its stages have ended and the machine is its own.

Trainings take turns with the baseline's. And what was timed while the machine was busy is timed again, at most twice: such
turns, and the latency of models whose checkpoints were kept for this. All that is known is in the records, so a run that was
broken off goes on where it stopped.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure.turns import fit_together
from bench.metrics.metric import at
from bench.plan.plan import Node, Plan, pairing
from bench.record.reading import Records
from bench.record.schema import Turns as Taken
from bench.stage import checkpoint
from bench.stage.job import Turns

MOST = 3
"""How often a thing is timed: once, and twice more where the machine was busy."""

TURN_SECONDS = 0.05
"""Steps are put together to turns of at least this length."""


@dataclass(frozen=True)
class Due:
    """What is to be timed: the training of `node` in turns with that of `baseline`, or, without one, its latency again."""

    node: Node
    baseline: Node | None = None

    @property
    def models(self) -> set[str]:
        """The nodes whose models this takes."""
        of = (self.node.parent, self.baseline.parent) if self.baseline else (self.node.id, self.node.uncompressed)
        return {node for node in of if node}


class Timings:
    """What a run of the recipes called `names` has to time at its end. `fresh`: whatever was timed before the run `run_id`."""

    def __init__(self, whole: Plan, names: set[str], folder: Path, run_id: str, *, fresh: bool) -> None:
        self._on = whole.suite.measure.turns > 0
        self._folder = folder
        self._run = run_id
        self._fresh = fresh
        self._nodes = whole.select(names).nodes
        self._pairs = list(_pairs(whole, names)) if self._on else []
        self._busy: set[str] = set()

    def begin(self, records: Records) -> None:
        """Look at what is recorded when the run begins."""
        self._pairs = [each for each in self._pairs if self._wanted(self._taken(each, records))]
        if self._on and not self._fresh:
            for id_ in self._nodes.keys() & records.ok:
                self.ended(records.nodes[id_])

    def ended(self, record: Mapping[str, Any]) -> None:
        """A node ended, or was timed again, with this `record`."""
        busy = record["status"] == "ok" and record.get("latency") and at(record, "trust", "latency", "contended")
        if self._on and busy and record.get("retimed", 0) < MOST - 1:
            self._busy.add(record["id"])
        else:
            self._busy.discard(record["id"])

    def checkpoints(self) -> set[str]:
        """The nodes whose models are still needed."""
        return set().union(*(each.models for each in (*self._pairs, *self._latencies())))

    def due(self, records: Records) -> list[Due]:
        """What is to be timed now, as far as the models that it takes are there."""
        there, ok = checkpoint.present(self._folder), records.ok
        self._pairs = [each for each in self._pairs if self._wanted(self._taken(each, records))]
        ended = [each for each in self._pairs if each.baseline and {each.node.id, each.baseline.id} <= ok]
        return [each for each in (*ended, *self._latencies()) if each.models <= there]

    def _latencies(self) -> list[Due]:
        return [Due(node) for id_, node in self._nodes.items() if id_ in self._busy]

    def _taken(self, pair: Due, records: Records) -> list[Taken]:
        assert pair.baseline is not None
        before = records.turns.get(pair.baseline.id, {}).get(pair.node.id, [])
        return [taken for taken in before if not self._fresh or taken.run == self._run]

    def _wanted(self, taken: list[Taken]) -> bool:
        """Whether one more is wanted after those that were `taken`. What failed is tried again by the next run."""
        if not taken or taken[-1].status != "ok":
            return not taken or taken[-1].run != self._run
        return taken[-1].against is not None and len(taken) < MOST


def in_turns(pair: Due, records: Records, memory: int | None) -> Turns:
    """How the trainings of `pair` take turns. They are alive at once where the `memory` holds both, by their recorded peaks."""
    assert pair.baseline is not None
    trainings = [records.nodes[each.id].training for each in (pair.node, pair.baseline)]
    steps = [statistics.median(each.steady_seconds or [0.0]) if each else 0.0 for each in trainings]
    peaks = [(each and each.peak_bytes) or 0.0 for each in trainings]
    return Turns(
        pair.baseline.recipe.spell(defaults=True),
        steps=math.ceil(TURN_SECONDS / min(steps)) if min(steps) > 0 else 1,
        alive=fit_together(peaks, memory),
    )


def _pairs(whole: Plan, names: set[str]) -> Iterator[Due]:
    """Each training of one process, with the baseline's first of the same subject and seed."""
    baseline = whole.suite.baseline or next(iter(whole.suite.recipes))
    first = {pairing(cell): cell.trainings[0] for cell in whole.cells if cell.name == baseline and cell.trainings}
    found: dict[str, Due] = {}
    for cell in whole.cells:
        base = first.get(pairing(cell))
        if cell.name not in names or cell.refused or base is None or base.processes > 1:
            continue
        for node in cell.trainings:
            if node.processes == 1 and node.id != base.id:
                found.setdefault(node.id, Due(node, base))
    yield from found.values()
