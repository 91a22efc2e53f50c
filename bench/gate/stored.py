"""Two stored results folders, compared by the gate's rules.

What was measured on other occasions differs by more than the code: unchanged code raises an alarm in 27 to 45 of 100
comparisons with a stored baseline on a noisy machine. So a verdict on timings is advisory, and folders of other machines,
versions, data or budgets have no verdict at all.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from bench.compare.compare import Comparisons
from bench.gate.recorded import checks, tests_of
from bench.gate.verdict import Side, Verdict
from bench.record.errors import RecordError
from bench.record.reading import Records, read
from bench.record.schema import Environment, Run
from bench.suite.gate import GateTable

ADVISORY = (
    "timings and memory were measured on other occasions, so this is advice: on a noisy machine, stored baselines raise "
    "false alarms in 27 to 45 % of comparisons of unchanged code"
)


def compare(base: Path, head: Path, table: GateTable) -> Verdict:
    """The verdict on what `head` holds against what `base` holds.

    With doubts, as different machines are, every check that has something to say is inconclusive.

    Raises:
        RecordError: a folder has no records, or some of a newer schema.
        SuiteError: a tolerance does not fit its metric.
    """
    began, started = time.perf_counter(), datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    theirs, ours = recorded(base), recorded(head)
    found = checks(theirs, ours, table, tests=tests_of(theirs, ours, table, stored=True), stored=True)
    doubts = tuple(
        f"{name}: {before} in the base, {after} in the head"
        for name, before, after in differing(settings(theirs), settings(ours))
    )
    if doubts:
        found = [
            each
            if each.outcome == "skipped"
            else replace(each, outcome="inconclusive", reason=each.reason or doubts[0])
            for each in found
        ]
    return Verdict(
        suite=", ".join(Comparisons(theirs).titles),
        checks=tuple(found),
        base=_side("base", base, theirs),
        head=_side("head", head, ours),
        started=started,
        seconds=time.perf_counter() - began,
        alpha=table.alpha,
        margin=table.margin,
        doubts=doubts,
        notes=(ADVISORY, *_notes(theirs, ours), *theirs.warnings, *ours.warnings),
    )


def recorded(folder: Path) -> Records:
    """The records of a results folder, with at least one run.

    Raises:
        RecordError: there is none, or some are of a newer schema.
    """
    found = read(folder)
    if not found.runs:
        raise RecordError(f"{folder}: no run is recorded in it; name a folder that `methodbench run` wrote to")
    return found


def commit(run: Run) -> str:
    """The commit that `run` was of, with ``+changes`` where files differed from it; empty where it is not recorded."""
    git = (run.get("environment") or {}).get("git")
    if not isinstance(git, Mapping) or not isinstance(git.get("commit"), str):
        return ""
    return f"{git['commit']}{'+changes' if git.get('dirty') else ''}"


def _side(name: Literal["base", "head"], folder: Path, records: Records) -> Side:
    run = Comparisons(records).runs[-1]
    environment: Mapping[str, Any] = run.get("environment") or {}
    machine = environment.get("machine") or {}
    return Side(name, str(folder), commit(run), str(machine.get("python", "")), {}, dict(environment))


def settings(records: Records) -> dict[str, set[str]]:
    """What the results of the latest runs depend on, with the values that occur."""
    found: dict[str, set[str]] = {}
    ids = dict.fromkeys(id_ for run in Comparisons(records).runs for cell in run.cells for id_ in cell.path)
    for node in (records.nodes[id_] for id_ in ids if id_ in records.nodes):
        environment = node.get("environment")
        machine = Environment(**environment).machine if environment else None
        seen = dict(machine.settings()) if machine else {}
        seen.pop("methodbench", None)  # which is what may be under test
        for part in ("budget", "measure"):
            if isinstance(asked := node.get(part), Mapping):
                seen |= {f"{part}.{key}": value for key, value in asked.items()}
        for part in ("model", "task"):
            if node.get(f"{part}_fingerprint"):
                seen[f"the fingerprint of the {part} {node[part]}"] = node[f"{part}_fingerprint"]
        for name, value in seen.items():
            found.setdefault(name, set()).add(str(value))
    return found


def differing(base: Mapping[str, set[str]], head: Mapping[str, set[str]]) -> Iterator[tuple[str, str, str]]:
    """The settings that are recorded on both sides and differ, each with its values on both."""
    for name in base:
        if name in head and base[name] != head[name]:
            yield name, ", ".join(sorted(base[name])), ", ".join(sorted(head[name]))


def _notes(base: Records, head: Records) -> Iterator[str]:
    theirs, ours = (
        {cell.name: cell.recipe for run in Comparisons(side).runs for cell in run.cells} for side in (base, head)
    )
    for name in theirs:
        if theirs[name] != ours.get(name, theirs[name]):
            yield f"{name}: the recipe is {theirs[name]} in the base, {ours[name]} in the head"
