"""How often our gate and others cry wolf, and how often they sleep: ``nox -s gate-power``.

Every rule decides on the same timings: simulated ones of several machines, and recorded ones. The slowdown is a factor on
the head's times, so that the noise of a trial is the same under each. Progress is on standard error, the tables, as
Markdown, and the targets on standard output. The exit status is 0 where every target is shown to hold.

``python -m tests.gate_power record FILE`` records timings of the same code on this machine, and ``--recorded FILE`` reads
them, or those of a ``gate.json``. ``windows [FILE]`` has gates follow each other over a recording, without any drawing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.stats import beta

from bench.gate.decision import Decision, Rule
from tests.gate_power import recorded
from tests.gate_power.noise import NOISE, WORKERS, Trials
from tests.gate_power.rules import gate, peers

SLOWER = (0.0, 0.03, 0.05, 0.10)
"""Slowdowns of the head, as shares of its time."""

RULES = {"up to 20 pairs": Rule(), "10 pairs": Rule(most=10)}
"""Ours: the default, and one look after ten pairs."""

PAIRS = Rule().most + Rule().confirm
METRICS = 40
SPREAD = 0.02
"""Of d, to a tenth of a per cent: up to here slowdowns of 5 % must be found."""

SHOWN = 0.95
"""The confidence with which a target must be shown to hold."""


@dataclass(frozen=True)
class Target:
    """`count` of `trials`, and the rate that it must be shown to be at most, or at least."""

    name: str
    count: int
    trials: int
    rate: float
    most: bool

    @property
    def bound(self) -> float:
        """The end of the exact one-sided interval of the rate (Clopper and Pearson 1934) that must keep to the target."""
        if self.most:
            return float(beta.ppf(SHOWN, self.count + 1, self.trials - self.count)) if self.count < self.trials else 1.0
        return float(beta.ppf(1 - SHOWN, self.count, self.trials - self.count + 1)) if self.count else 0.0

    @property
    def holds(self) -> bool:
        """Whether the bound keeps to the target."""
        return self.bound <= self.rate if self.most else self.bound >= self.rate

    def __str__(self) -> str:
        """A line of a table."""
        sign = "≤" if self.most else "≥"
        return (
            f"| {self.name} | {sign} {self.rate:.0%} | {self.count} of {self.trials} | {sign} {self.bound:.2%} "
            f"| {'holds' if self.holds else 'NOT SHOWN'} |"
        )


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 0 where all targets are shown to hold."""
    parser = argparse.ArgumentParser(prog="nox -s gate-power --", description="How often gates cry wolf, and sleep.")
    parser.add_argument("--trials", type=int, default=2000, metavar="N", help="of each machine, for our gate; 2000")
    parser.add_argument("--peers", type=int, default=500, metavar="N", help="of these, how many the others see; 500")
    parser.add_argument("--suites", type=int, default=500, metavar="N", help=f"of {METRICS} metrics; 500")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn; 0")
    parser.add_argument(
        "--recorded", type=Path, action="append", metavar="FILE", help="recorded timings of the same code; aa.jsonl"
    )
    commands = parser.add_subparsers()
    recording = commands.add_parser("record", help="record timings of the same code on this machine")
    recording.add_argument("file", type=Path)
    recording.add_argument("--pairs", type=int, default=80, help="of fresh processes; 80")
    really = commands.add_parser(
        "windows", help="gates, one after the other, over the pairs of a recording as they came"
    )
    really.add_argument("windows", type=Path, nargs="?", default=recorded.WINDOWS, metavar="FILE", help="windows.jsonl")
    given = parser.parse_args(arguments)
    if min(given.trials, given.peers, given.suites) < 1:
        parser.error("at least one trial of each is needed")
    try:
        if "file" in given:
            recorded.record(given.file, given.pairs)
            return 0
        if "windows" in given:
            for name, (base, head) in recorded.read(given.windows).items():
                print(*windows(name, base, head), sep="\n")
            return 0
        machines = sources(given.recorded or [recorded.FILE])
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return measure(machines, given.trials, given.peers, given.suites, given.seed)


Source = Callable[[np.random.Generator, int, int], Trials]
"""Draws trials of pairs."""


def sources(files: Sequence[Path]) -> dict[str, Source]:
    """Where timings come from, by name."""
    found: dict[str, Source] = {noise.name: noise.draw for noise in NOISE}
    for file in files:
        for name, (base, head) in recorded.read(file).items():
            found[f"recorded: {name}"] = lambda rng, trials, pairs, base=base, head=head: recorded.resample(
                base, head, rng, trials, pairs
            )
    return found


def measure(machines: dict[str, Source], trials: int, seen: int, suites: int, seed: int) -> int:
    """Print what each rule does on each machine, and which targets hold."""
    ours: list[Ours] = []
    alarms: dict[tuple[str, str], list[float]] = {}
    targets: list[Target] = []
    started = time.monotonic()
    for number, (machine, draw) in enumerate(machines.items()):
        rng = np.random.default_rng([seed, number])
        drawn = draw(rng, trials, PAIRS)
        here = [Ours.of(machine, drawn.d, name, rule) for name, rule in RULES.items()]
        tell(started, f"{machine}: our gate")
        alarms |= {(f"our gate, {each.rule}", machine): each.rates("regression") for each in here}
        for name, rates in others(drawn, seen):
            alarms[name, machine] = rates
            tell(started, f"{machine}: {name}")
        suite = (draw(rng, METRICS, PAIRS).d for _ in range(suites))
        any_alarm = sum("regression" in {decision.outcome for decision in gate(d, Rule())} for d in suite)
        tell(started, f"{machine}: {suites} suites of {METRICS} metrics")
        targets += [Target(f"false alarms, {each.rule}: {machine}", *each.count(0.0), 0.01, True) for each in here]
        if round(here[-1].spread, 3) <= SPREAD:
            targets.append(
                Target(f"slowdowns of 5 % found, {here[-1].rule}: {machine}", *here[-1].count(0.05), 0.95, False)
            )
        targets.append(Target(f"any alarm in {METRICS} metrics: {machine}", any_alarm, suites, 0.05, True))
        ours += here
    print(HEAD, *ours, "", sep="\n")
    for slower in SLOWER:
        print(*table(alarms, slower), "", sep="\n")
    print("| target | rate | seen | the rate is, with 95 % confidence | |", "| --- | --- | --- | --- | --- |", sep="\n")
    print(*targets, sep="\n")
    return 0 if all(target.holds for target in targets) else 1


def windows(name: str, base: np.ndarray, head: np.ndarray) -> Iterator[str]:
    """The lines of a table: gates that follow each other over the recorded pairs (pairs, repeats), each as many as it asks for.

    The others see the pairs of each window, with the base of the same window or of the one before.
    """
    d = np.median(np.log(head / base), axis=1)
    ends: list[str] = []
    cuts = [0]
    while cuts[-1] + PAIRS <= len(d):
        (decision,) = gate(d[None, cuts[-1] :], Rule())
        ends.append(decision.outcome)
        cuts.append(cuts[-1] + len(decision.differences) + len(decision.fresh))
    spans = [slice(*cut) for cut in pairwise(cuts)]
    pairs = np.diff(cuts)
    yield f"{name}: {len(d)} pairs, {len(ends)} windows of {pairs.min()} to {pairs.max()} pairs, spread of d {np.std(d):.1%}\n"
    yield "| A/A, as recorded | alarms | inconclusive |\n| --- | ---: | ---: |"
    yield f"| our gate, up to 20 pairs | {ends.count('regression')} of {len(ends)} | {ends.count('inconclusive')} |"
    for rule, peer in peers().items():
        beside = [peer(base[span], head[span]) for span in spans]
        stored = [peer(base[before], head[span]) for before, span in pairwise(spans)]
        yield f"| `{rule}`, baseline of the window before | {sum(stored)} of {len(stored)} | |"
        yield f"| `{rule}`, pairs | {sum(beside)} of {len(beside)} | |"


def tell(started: float, what: str) -> None:
    """Say on standard error what is done."""
    print(f"{time.monotonic() - started:6.1f} s  {what}", file=sys.stderr, flush=True)


HEAD = """\
| machine | spread of d | our gate | A/A: alarms | inconclusive | pairs | +3 %: alarms | passed | +5 %: found | of 40 | passed | +10 %: found | passed |
| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""


@dataclass(frozen=True)
class Ours:
    """What our gate decided on one machine by one rule: a list of decisions for each slowdown. ``among`` is the share of
    slowdowns of 5 % that it finds where it holds 39 other metrics as well."""

    machine: str
    spread: float
    rule: str
    decisions: dict[float, list[Decision]]
    among: float

    @classmethod
    def of(cls, machine: str, d: np.ndarray, name: str, rule: Rule) -> Ours:
        """Decide on each row of `d`, (trials, pairs), each of them a gate."""
        decisions = {slower: [gate(row[None], rule)[0] for row in d + np.log1p(slower)] for slower in SLOWER}
        several = [gate(row[None], rule, beside=METRICS - 1)[0].outcome for row in d + np.log1p(0.05)]
        return cls(machine, float(np.std(d)), name, decisions, several.count("regression") / len(several))

    def count(self, slower: float, outcome: str = "regression") -> tuple[int, int]:
        """How many ended so, of how many."""
        decisions = self.decisions[slower]
        return sum(decision.outcome == outcome for decision in decisions), len(decisions)

    def rates(self, outcome: str) -> list[float]:
        """The share that ended so, for each slowdown."""
        return [count / trials for count, trials in (self.count(slower, outcome) for slower in SLOWER)]

    def __str__(self) -> str:
        """A line of a table."""
        alarms, passes, open_ = map(self.rates, ("regression", "pass", "inconclusive"))
        pairs = np.mean([len(decision.differences) + len(decision.fresh) for decision in self.decisions[0.0]])
        shares = [alarms[1], passes[1], alarms[2], self.among, passes[2], alarms[3], passes[3]]
        return (
            f"| {self.machine} | {self.spread:.1%} | {self.rule} | {alarms[0]:.2%} | {open_[0]:.1%} | {pairs:.1f} | "
            f"{' | '.join(f'{share:.1%}' for share in shares)} |"
        )


def others(drawn: Trials, seen: int) -> Iterator[tuple[str, list[float]]]:
    """Each rule of other tools, with its share of alarms in the first `seen` trials for each slowdown.

    It sees 20 workers a side: the head's, and either the base's beside them or a stored baseline.
    """
    head = drawn.head[:seen, :WORKERS]
    for name, peer in peers().items():
        for beside, base in (("stored baseline", drawn.stored[:seen]), ("pairs", drawn.base[:seen, :WORKERS])):
            rates = [
                float(np.mean([peer(*sides) for sides in zip(base, head * (1 + slower), strict=True)]))
                for slower in SLOWER
            ]
            yield f"`{name}`, {beside}", rates


def table(alarms: dict[tuple[str, str], list[float]], slower: float) -> Iterator[str]:
    """The lines of a table of the alarms at a slowdown: rules down, machines across."""
    rules, machines = (list(dict.fromkeys(names)) for names in zip(*alarms, strict=True))
    yield f"| alarms at {f'+{slower:.0%}' if slower else 'A/A'} | {' | '.join(machines)} |"
    yield f"| --- |{' ---: |' * len(machines)}"
    for rule in rules:
        rates = (alarms[rule, machine][SLOWER.index(slower)] for machine in machines)
        yield f"| {rule} | {' | '.join(f'{rate:.1%}' for rate in rates)} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
