"""The gate: from two targets to a verdict.

Both sides run the suite once, which gives quality and all that is counted; then workers of both take turns until each timing
is decided; then those that became slower are profiled.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bench.gate import recorded
from bench.gate.case import OF_SCRIPTS, Case
from bench.gate.decision import Decision, Limits, Rule, as_change, decide
from bench.gate.pairs import SIDES, Pair, Pairs, Target, WorkerError
from bench.gate.verdict import Check, Grown, Side, Verdict
from bench.gate.worker import PHASE, PROTOCOL
from bench.measure.turns import fit_together
from bench.metrics import registry
from bench.metrics.metric import Metric
from bench.record.reading import Records, read
from bench.suite.gate import GateTable
from bench.suite.tolerance import Tolerance, share

SPOILED = 10
"""Times that a pair is taken again, in a whole gate, because the machine was not to be trusted meanwhile."""

Tell = Callable[[str], None]


class GateError(ValueError):
    """There can be no verdict: wrong use, or a broken environment. The command ends with status 2."""


@dataclass(frozen=True)
class Timed:
    """A metric of a case that pairs decide, with what it may lose."""

    case: Case
    metric: Metric
    tolerance: Tolerance
    limits: Limits

    @property
    def held(self) -> bool:
        """Whether it is bytes, and not a time."""
        return self.metric.name in self.case.held

    def difference(self, pair: Pair) -> float:
        """How much worse the head is, on the scale of the limits.

        Raises:
            ValueError: a value is not a number above 0.
        """
        base, head = pair.base.value, pair.head.value
        if self.tolerance.scale == "difference":
            return head - base
        if min(base, head) <= 0:
            raise ValueError(f"{self.case.name}: {self.metric.name}: {base} and {head} have no ratio")
        value = math.log(head / base) if self.held else pair.log_ratio
        if not math.isfinite(value):
            raise ValueError(f"{self.case.name}: {self.metric.name}: a repeat took no time")
        return value

    def in_unit(self, value: float) -> float:
        """A pair's value in the metric's unit: seconds for each token become tokens a second."""
        return value if self.held or self.metric.better == "lower" else 1 / value


@dataclass
class Measured:
    """The pairs of each metric, by its key, in the order in which they were taken."""

    pairs: dict[str, list[Pair]] = field(default_factory=dict)
    spoiled: list[str] = field(default_factory=list)


def gate(base: Target, head: Target, table: GateTable, out: Path, tell: Tell) -> Verdict:
    """Compare `head` with `base`, write ``gate.json`` into the folder `out`, and give the verdict.

    Raises:
        GateError: a side cannot run the suite, is not what was asked for, or cannot be compared with the other.
    """
    started, began = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), time.perf_counter()
    prepared = [prepare(target, table, tell) for target in (base, head)]
    _same_question(*prepared)
    theirs, ours = (read(target.folder) for target in (base, head))
    asked = timed(prepared, table)
    tests = recorded.tests_of(theirs, ours, table)
    checks = recorded.checks(theirs, ours, table, tests=tests + len(asked))
    pairs = pairs_of(base, head, prepared, (theirs, ours), table, out)
    rule = Rule(alpha=table.alpha, most=table.max_pairs)
    measured = Measured()
    try:
        decisions = collect(pairs, asked, rule, tests, measured, tell)
        for key, decision in decisions.items():
            check = _check(asked[key], decision, measured.pairs.get(key, []), pairs.clock)
            if check.outcome == "regression" and not asked[key].held:
                tell(f"profiling {check.recipe}")
                check = replace(check, grown=grown(pairs.profile(asked[key].case)))
            checks.append(check)
    except WorkerError as error:
        raise GateError(str(error)) from None
    checks += _skipped(prepared, table)
    if not checks:
        raise GateError("nothing of what [gate] names is measured by this suite; see its [measure] table")
    verdict = Verdict(
        suite=str(base.suite.get("title") or base.suite_folder.name),
        checks=tuple(sorted(checks, key=lambda check: (check.recipe, check.metric))),
        base=_side(base, prepared[0]),
        head=_side(head, prepared[1]),
        started=started,
        seconds=time.perf_counter() - began,
        alpha=table.alpha,
        margin=table.margin,
        doubts=tuple(_doubts(prepared, measured)),
        notes=tuple(_notes(prepared)),
    )
    verdict.write(out / "gate.json")
    return verdict


# -- the sides -----------------------------------------------------------------------------------------------------


def prepare(target: Target, table: GateTable, tell: Tell) -> Mapping[str, Any]:
    """Have `target` run the suite, and hear what can be timed there.

    Raises:
        GateError: it cannot, or what is imported there is not what was to be.
    """
    tell(f"running the suite once: {target.which} ({target.label})")
    families = {metric.family for metric in _gated(table)}
    measure = {
        "latency": [],
        "quality": "quality" in families,
        "flops": "compute" in families,
        "size": "size" in families,
    }
    asked = {
        # Tuning could give each side another rate, and the question is what the code costs at the same.
        "suite": {key: value for key, value in target.suite.items() if key != "tune"},
        "suite_folder": str(target.suite_folder),
        "folder": str(target.folder),
        "measure": measure,
        "scripts": table.scripts,
        "modules": ["bench", *target.packages],
    }
    done = subprocess.run(
        [str(target.python), "-P", "-m", "bench.gate.worker", "prepare"],
        input=json.dumps(asked),
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        cwd=target.checkout,
        env=dict(target.environment),
    )
    who = f"{target.which} ({target.label})"
    if not done.stdout.strip():
        raise GateError(
            f"{who}: {target.python} has no methodbench with a gate (status {done.returncode}); install methodbench there, "
            "or name a revision that has one"
        )
    found: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "error" in found:
        raise GateError(f"{who}: {found['error']}")
    if found["protocol"] != PROTOCOL:
        raise GateError(
            f"{who}: its gate speaks protocol {found['protocol']}, and this one {PROTOCOL}; use one version of both"
        )
    try:
        for module in target.packages:
            target.check(module, found["modules"][module])
    except WorkerError as error:
        raise GateError(str(error)) from None
    return found


def _same_question(base: Mapping[str, Any], head: Mapping[str, Any]) -> None:
    """The recipes may differ, for they are what is compared; what they are measured on may not.

    Raises:
        GateError: it does.
    """
    own = {"recipes", "baseline", "defaults"}
    for key in sorted({*base["suite"], *head["suite"]} - own):
        ours, theirs = base["suite"].get(key), head["suite"].get(key)
        if ours != theirs:
            if isinstance(ours, dict) and isinstance(theirs, dict):
                name = min(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
                key, ours, theirs = f"{key}.{name}", ours.get(name), theirs.get(name)
            raise GateError(
                f"the sides' suites ask different questions: {key} is {ours} in base and {theirs} in head; "
                "compare revisions with the same one"
            )


def _gated(table: GateTable) -> Iterable[Metric]:
    by_rank = "quality" in table.allowed()
    for metric in registry.metrics().values():
        if table.tolerance_of(metric) or (by_rank and metric.family == "quality"):
            yield metric


def _side(target: Target, prepared: Mapping[str, Any]) -> Side:
    return Side(
        target.which,
        target.label,
        target.commit,
        str(target.python),
        dict(prepared["modules"]),
        prepared["environment"],
    )


# -- the pairs -----------------------------------------------------------------------------------------------------


def timed(prepared: Sequence[Mapping[str, Any]], table: GateTable) -> dict[str, Timed]:
    """What pairs decide, by a key of recipe and metric: of the cases that both sides have, the metrics that are gated."""
    margin = math.log1p(share(table.margin, "margin"))
    base, head = ({case["name"]: case for case in each["cases"]} for each in prepared)
    found = {}
    for name in base.keys() & head.keys():
        case = Case.read(base[name])
        if case.refused or head[name]["refused"]:
            continue
        for each in (*case.timed, *case.held):
            metric = OF_SCRIPTS.get(each) or registry.metric(each)
            if tolerance := table.tolerance_of(metric):
                held = each in case.held
                if tolerance.scale == "ratio":
                    limits = Limits(margin, math.log1p(tolerance.value), held)
                else:
                    limits = Limits(0.0, tolerance.value, held)
                found[f"{case.recipe}: {each}"] = Timed(case, metric, tolerance, limits)
    return dict(sorted(found.items()))


def pairs_of(
    base: Target,
    head: Target,
    prepared: Sequence[Mapping[str, Any]],
    records: Iterable[Records],
    table: GateTable,
    out: Path,
) -> Pairs:
    """What measures the pairs, with what the folder `out` has of the same ones. `records` of both sides say what fits memory."""
    here = prepared[0]["environment"]["machine"]
    clock: Literal["cpu", "cuda"] = "cuda" if here["device"] == "cuda" else "cpu"
    peaks = [
        value
        for side in records
        for node in side.nodes.values()
        if (value := (node.get("training") or {}).get("peak_bytes"))
    ]
    most = here["gpu_memory"] if clock == "cuda" else here["memory"]
    identity = [[each["identity"] for each in prepared], table.repeats, _boot()]
    return Pairs(
        base,
        head,
        [Case.read(case) for case in prepared[0]["cases"]],
        table.repeats,
        clock,
        out / "pairs.jsonl",
        fits=fit_together([max(peaks, default=0)] * 2, most),
        identity=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
    )


def _boot() -> str:
    """What tells this machine, since it was started, from others and from itself before."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        return ""


def collect(
    pairs: Pairs, asked: Mapping[str, Timed], rule: Rule, beside: int, measured: Measured, tell: Tell
) -> dict[str, Decision]:
    """Take pairs until all that is `asked` is decided. `beside` is how many tests the gate makes elsewhere.

    Raises:
        WorkerError: a side failed.
    """
    deciding = decide({key: each.limits for key, each in asked.items()}, rule, beside=beside)
    try:
        wanted = next(deciding)
        while True:
            tell(f"pair {pairs.number + 1}: {len(wanted)} of {len(asked)} not decided")
            wanted = deciding.send(take(pairs, asked, wanted, measured))
    except StopIteration as end:
        decisions: dict[str, Decision] = end.value
        return decisions


def take(pairs: Pairs, asked: Mapping[str, Timed], wanted: Iterable[str], measured: Measured) -> dict[str, float]:
    """The differences of one pair of each of `wanted`. One that was spoiled is taken again; what has none is left out."""
    differences: dict[str, float] = {}
    todo = set(wanted)
    while todo:
        by_case: dict[str, set[str]] = {}
        for key in todo:
            by_case.setdefault(asked[key].case.name, set()).add(asked[key].metric.name)
        again: set[str] = set()
        for case, found in pairs.measure(by_case):
            for metric, pair in found.items():
                key = f"{case.recipe}: {metric}"
                if pair.spoiled:
                    measured.spoiled.append(pair.spoiled)
                    again.add(key)
                    continue
                try:
                    differences[key] = asked[key].difference(pair)
                except ValueError:
                    continue
                measured.pairs.setdefault(key, []).append(pair)
        todo = again if len(measured.spoiled) <= SPOILED else set()
    return differences


# -- what is said of it --------------------------------------------------------------------------------------------


def _check(asked: Timed, decision: Decision, pairs: Sequence[Pair], clock: Literal["cpu", "cuda"]) -> Check:
    def shown(difference: float) -> float:
        return as_change(difference, asked.tolerance.scale)

    # After an alarm, the fresh pairs alone count.
    counted = pairs[-len(decision.fresh) :] if decision.fresh else pairs
    found = decision.estimate
    values = [[asked.in_unit(getattr(pair, side).value) for pair in pairs] for side in SIDES]
    last = [[asked.in_unit(getattr(pair, side).value) for pair in counted] for side in SIDES]
    wall = [math.log(pair.head.wall / pair.base.wall) for pair in counted if pair.head.wall > 0]
    change = found.mean if found else decision.differences[0] if decision.differences else None
    return Check(
        recipe=asked.case.recipe,
        metric=asked.metric.name,
        title=asked.metric.title,
        unit=asked.metric.unit,
        better=asked.metric.better,
        how="pairs",
        outcome=decision.outcome,
        scale=asked.tolerance.scale,
        allowed=str(asked.tolerance),
        tolerance=asked.tolerance.value,
        base=statistics.median(last[0]) if last[0] else None,
        head=statistics.median(last[1]) if last[1] else None,
        change=None if change is None else shown(change),
        interval=(shown(found.bound(0.025)), shown(found.bound(0.975))) if found else None,
        smallest=None if decision.smallest is None else shown(decision.smallest),
        p_value=decision.p_value,
        level=decision.level,
        pairs=len(counted),
        reason=decision.reason,
        clock="" if asked.held else clock,
        wall_change=math.expm1(statistics.fmean(wall)) if wall and not asked.held else None,
        base_values=tuple(values[0]),
        head_values=tuple(values[1]),
    )


def _skipped(prepared: Sequence[Mapping[str, Any]], table: GateTable) -> Iterable[Check]:
    """What cannot be timed, and why."""
    for case in prepared[1]["cases"]:
        for name in (*case["timed"], *case["held"]) if case["refused"] else ():
            metric = registry.metric(name)
            if tolerance := table.tolerance_of(metric):
                yield Check(
                    case["recipe"], name, metric.title, metric.unit, metric.better, "pairs", "skipped", tolerance.scale,
                    str(tolerance), tolerance.value, reason=case["refused"],
                )  # fmt: skip


def grown(profiles: Mapping[str, Mapping[str, float]], most: int = 5) -> tuple[Grown, ...]:
    """The phases and operators whose time grew most, in seconds of one piece of work: those with a tenth of all the growth."""
    base, head = (dict(profiles[side]) for side in SIDES)
    for side in (base, head):
        both, forward = (side.pop(PHASE + name, None) for name in ("forward and backward", "forward"))
        if both is not None and forward is not None:
            side[PHASE + "forward"], side[PHASE + "backward"] = forward, both - forward
    found = [Grown(name, base.get(name, 0.0), head.get(name, 0.0)) for name in {**base, **head}]
    found.sort(key=lambda each: each.base - each.head)
    operators = [each for each in found if not each.name.startswith(PHASE)]
    growth = math.fsum(max(0.0, each.head - each.base) for each in operators)
    return tuple(each for each in found if each.head - each.base > 0.1 * growth)[:most]


def _doubts(prepared: Sequence[Mapping[str, Any]], measured: Measured) -> Iterable[str]:
    if len(measured.spoiled) > SPOILED:
        yield f"the machine was not to be trusted in {len(measured.spoiled)} pairs: {measured.spoiled[-1]}"
    ours, theirs = (each["environment"]["machine"] for each in prepared)
    for key in ("device", "device_name", "cpu", "cpu_features", "threads", "driver", "power_limit", "mig"):
        if ours[key] != theirs[key]:
            yield f"the sides ran on different machines: {key} is {ours[key]} in base and {theirs[key]} in head"


def _notes(prepared: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    ours, theirs = (each["environment"]["machine"] for each in prepared)
    if ours["python"] != theirs["python"]:
        yield f"Python is {ours['python']} in base and {theirs['python']} in head"
    for name in sorted({*ours["versions"], *theirs["versions"]}):
        before, after = ours["versions"].get(name), theirs["versions"].get(name)
        if before != after:
            yield f"{name} is {before} in base and {after} in head"
    recipes = [each["suite"]["recipes"] for each in prepared]
    for name in recipes[0].keys() & recipes[1].keys():
        if recipes[0][name] != recipes[1][name]:
            yield f"{name} is `{recipes[0][name]}` in base and `{recipes[1][name]}` in head"
    for name in sorted(recipes[0].keys() ^ recipes[1].keys()):
        yield f"{name} is in {'base' if name in recipes[0] else 'head'} alone, so that nothing is said of it"
