"""Training throughput from trainings that took turns with the baseline's.

Of one seed, the baseline's first training sets the pace: the seconds that it takes for a token, as its stage recorded them. Every
other training is as much slower or faster as it was in turns, so that figures and ratios agree.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.metrics.metric import Record, is_steady, paired, steady
from bench.record.schema import Node, Turns

Taken = Mapping[str, Mapping[str, Sequence[Turns]]]
"""Each time that two trainings took turns, by the id of the baseline's stage, then of the other's; the last counts."""

DIVIDED = "several processes divide it, and cannot take turns with others"
MISSING = "no turns are recorded of it"


@dataclass(frozen=True, slots=True)
class Step:
    """A stage's record, and the same as metrics read it; and why its training and its latency are not to be trusted."""

    node: Node
    paired: Record
    training: str | None = None
    latency: str | None = None

    @classmethod
    def of(cls, node: Node, nodes: Mapping[str, Record]) -> Step:
        """That of a stage as it was recorded. `nodes` are all records."""
        trust = (node.trust.training, node.trust.latency) if node.trust else ()
        return cls(node, paired(node, nodes), *(each.against if each else None for each in trust))


Paths = Mapping[int, Sequence[Step]]
"""The stages of a recipe for each seed."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Of one seed, the baseline's first training, by its stage's id: the ``seconds`` that it takes for a token, and why these are
    not to be trusted. ``turns`` has those that others took with it, by the ids of their stages."""

    node: str
    seconds: float
    against: str | None
    turns: Mapping[str, Turns]


def pace(baseline: Sequence[Step], taken: Taken) -> Pace | None:
    """That of one seed, for which the `baseline` has these stages; None where it does not train, or nothing took turns with it.

    Where the machine was busy while its stage trained, its own turns say how long a token takes.
    """
    first = next((step for step in baseline if step.node.training), None)
    rate = steady("tokens")([first.paired]) if first else None
    turns = {id_: each[-1] for id_, each in taken.get(first.node.id, {}).items()} if first else {}
    if first is None or not rate or not turns:
        return None
    if first.training:
        quiet = [statistics.median(each.theirs.seconds) for each in turns.values() if each.theirs and not each.against]
        if quiet:
            return Pace(first.node.id, statistics.median(quiet), None, turns)
    return Pace(first.node.id, 1 / rate, first.training, turns)


def in_turns(paths: Paths, paces: Mapping[int, Pace]) -> Paths | str:
    """`paths`, with the steady steps of each training as long as its turns say; or why not all trainings of all seeds have them.

    Where no training took turns, which no seed has a pace for, they are as they were.
    """
    if not paces:
        return paths
    found = {}
    for seed, path in paths.items():
        of, steps = paces.get(seed), []
        for step in path:
            if not step.node.training:
                steps.append(step)
            elif of is None:
                return MISSING
            elif step.node.id == of.node:
                steps.append(replace(step, paired=_paced(step.paired, of.seconds), training=of.against))
            else:
                turns = of.turns.get(step.node.id)
                if turns is None or turns.ratio is None:
                    divided = DIVIDED if step.node.single_process else MISSING
                    return (turns.reason or turns.status) if turns else divided
                against = turns.against or of.against
                steps.append(replace(step, paired=_paced(step.paired, of.seconds * turns.ratio), training=against))
        found[seed] = steps
    return found


def _paced(record: Record, seconds: float) -> Record:
    """`record`, with a training whose steady steps took so many `seconds` for each token."""
    training = record["training"]
    each = zip(training["step_seconds"], training["tokens"], is_steady(training), strict=True)
    steps = [number * seconds if steady else taken for taken, number, steady in each]
    return {**record, "training": {**training, "step_seconds": steps}}
