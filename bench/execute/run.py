"""Carry out a plan: each node that is not recorded yet, a record after each.

What is recorded is never lost, and the same call goes on where the last one stopped, however that was.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from bench.execute.base import Executor, Outcome
from bench.execute.keep import NOTHING, Kept
from bench.execute.slots import Slots, slots
from bench.execute.timings import Due, Timings, in_turns
from bench.machine import disk, machine
from bench.plan import plan
from bench.plan.plan import Cell, Node, Plan, pairing
from bench.record import pyperf_file
from bench.record.reading import Records
from bench.record.schema import Inference, Trust, Tuned
from bench.record.store import Store
from bench.stage import checkpoint
from bench.stage.job import Job, Progress
from bench.suite.suite import Measure


class Watcher(Protocol):
    """Told how a run goes on."""

    def begin(self, nodes: list[Node], recorded: int, records: Records) -> None:
        """These will run; so many others are recorded. `records` are those of before, also of what runs again."""

    def node(self, node: Node) -> Progress:
        """A node begins; what it returns is told the progress inside."""

    def making(self, what: str) -> None:
        """A model is made first, as `what` says."""

    def ended(self, node: Node, record: Mapping[str, Any]) -> None:
        """A node ended."""

    def timings(self, nodes: list[Node], *, again: bool) -> None:
        """Timings of these follow the stages, or the timings before, `again`. Each begins with :meth:`node`."""

    def timed(self, node: Node, record: Mapping[str, Any]) -> None:
        """A timing of `node` ended: the record of its turns, or the node's own with the new latency in it."""


@dataclass(frozen=True)
class Result:
    """How a run ended: every node that ran with its status, and the cells that were refused, planned or under way.

    ``records`` is what the folder held before the run, or its timings; they read on to what it holds now.
    """

    statuses: Mapping[str, str]
    refused: tuple[Cell, ...]
    folder: Path
    """Where the records are."""
    records: Records
    asked: int
    """How many cells were asked for."""
    beside: tuple[str, ...] = ()
    """What could not be done beside the records, such as a file that others read, and why."""
    needed: frozenset[str] = frozenset()
    """The nodes whose checkpoints the next run of the plan needs."""

    @property
    def ok(self) -> bool:
        """Whether all that was not refused ended ``ok``."""
        return all(status in ("ok", "refused") for status in self.statuses.values())

    def with_next(self, result: Result) -> Result:
        """This result and the next of one run, which asks for all that this one did."""
        under_way = [cell for cell in self.refused if not cell.refused]
        return replace(
            result,
            statuses={**self.statuses, **result.statuses},
            refused=(*result.refused, *under_way),
            beside=tuple(dict.fromkeys([*self.beside, *result.beside])),
        )


def run(
    whole: Plan,
    names: set[str],
    store: Store,
    executor: Executor,
    watcher: Watcher,
    *,
    timeout: float | None = None,
    fresh: bool = False,
    checkpoint_minutes: float = 0.0,
    room: Slots | None = None,
    keep: Kept = NOTHING,
    ran: Collection[str] = (),
    looks: Sequence[int] = (),
    tuning: Sequence[Tuned] | None = (),
) -> Result:
    """Run the recipes called `names` of `whole` that are not recorded yet; all of them where `fresh`.

    Args:
        ran: the stages that ran just before, and do not run again, whatever their end.
        tuning: what trials of learning rates found, which goes into the run's record; None where these are the trials, which are
            no run of their own.
        looks: the numbers of seeds after which verdicts may be made, where seeds are added (:mod:`bench.compare.looks`).
        timeout: seconds that one process of a node may take.
        checkpoint_minutes: how often a training is saved, so that the same run goes on in the middle of it; 0 is never.
        room: for nodes side by side; for one alone by default. The timings of those that were not alone on their
            machine are marked.
        keep: nodes whose checkpoints stay, for whoever wants more of the models.

    Raises:
        RecordError: a record could not be written, or is of a newer schema. What was written before is safe.
        disk.Full: the disk is full.
    """
    started = time.perf_counter()
    run_id = uuid.uuid4().hex[:12]
    records = store.read()
    chosen = whole.select(names)
    recorded = records.ok & set(ran) if fresh else records.ok
    recorded = recorded - (keep.wanted - checkpoint.present(store.folder))
    todo = plan.to_run(chosen, recorded | set(ran), set() if fresh else checkpoint.present(store.folder))
    with store.writable():
        checkpoint.folder(store.folder)
        checkpoint.sweep(store.folder)
        for needed in (store.folder / "logs", checkpoint.temporary(store.folder)):
            needed.mkdir(parents=True, exist_ok=True)
    environment = machine.environment(whole.machine, whole.suite_folder)
    if tuning is not None:
        store.append(_run_line(run_id, whole, names, environment, store.folder, looks, tuning))
        _record_refusals(whole, names, store, records, run_id)

    timings = Timings(whole, names, store.folder, run_id, fresh=fresh)
    timings.begin(records)
    watcher.begin([chosen.nodes[id_] for id_ in todo], len(chosen.nodes.keys() & recorded), records)
    statuses: dict[str, str] = {}
    beside: list[str] = []
    alone = room is None or room.jobs == 1

    def measured(node: Node, gpus: tuple[str, ...]) -> dict[str, Any]:
        line = _node_line(run_id, node, whole) | {"environment": environment}
        job = replace(job_of(node, whole, store.folder, gpus), checkpoint_minutes=checkpoint_minutes, alone=alone)
        return line | _measured(node, job, executor, timeout, watcher)

    @contextlib.contextmanager
    def aside() -> Iterator[None]:
        """What goes wrong inside costs no more than files that lie beside the records."""
        try:
            yield
        except OSError as error:
            beside.append(f"{error.filename or store.folder}: {error.strerror or error}")

    def still_needed() -> set[str]:
        below = {other for node in chosen.nodes.values() if node.id not in recorded for other in node.stands_on}
        return below | timings.checkpoints()

    def tidy() -> None:
        # Where these are trials, others are of the recipes that run after them.
        there = checkpoint.present(store.folder)
        own = there if tuning is not None else there & whole.nodes.keys()
        checkpoint.remove(store.folder, own - keep.stay - still_needed())

    waiting = [chosen.nodes[id_] for id_ in todo]
    for id_ in checkpoint.unfinished(store.folder):
        done = fresh if id_ in todo else id_ in recorded
        # Where seeds are added, or these are trials, this plan is a part of the whole one.
        if done or not (looks or tuning is None or id_ in whole.nodes):
            checkpoint.of_training(checkpoint.path(store.folder, id_)).unlink(missing_ok=True)
    room = room or slots(whole.machine, 1)
    # What is compared is paired by seed, so that it is on one card; other seeds and subjects may be on others meanwhile.
    homes = {key: number for number, key in enumerate(dict.fromkeys(map(pairing, whole.cells)))}
    running: dict[Future[dict[str, Any]], tuple[Node, tuple[str, ...]]] = {}
    with _threads(executor, room.jobs) as threads:
        while waiting or running:
            unfinished = {node.id for node in [*waiting, *(other for other, _ in running.values())]}
            for node in list(waiting):
                if ended := [statuses[other] for other in node.stands_on if statuses.get(other, "ok") != "ok"]:
                    statuses[node.id] = ended[0]
                    waiting.remove(node)
                elif (
                    not node.stands_on & unfinished and (gpus := room.take(node.gpus, homes[pairing(node)])) is not None
                ):
                    waiting.remove(node)
                    running[threads.submit(measured, node, gpus)] = node, gpus
            assert running or not waiting, "planning allowed what there is no room for"
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                node, gpus = running.pop(future)
                room.give(gpus)
                record = future.result()
                store.append(record)
                statuses[node.id] = record["status"]
                timings.ended(record)
                watcher.ended(node, record)
                if record["status"] == "ok":
                    recorded.add(node.id)
                if record["reason"].startswith(disk.FULL):
                    # All that follows would train for nothing.
                    raise disk.Full(
                        f"{store.folder}: {record['reason']}; free some space and run the same command again"
                    )
                with aside():
                    _files(node, record, store)
                    tidy()

        def timed(due: Due, gpus: tuple[str, ...]) -> dict[str, Any]:
            if due.baseline is None:
                return _latency_again(due.node, whole, store, executor, timeout, watcher, records, gpus)
            taken = _turns(due, run_id, whole, store, executor, timeout, watcher, records, gpus)
            return {"environment": environment} | taken

        before = math.inf
        # Where a round of timings mends none, the machine is busy for longer than this: the next run tries again.
        while (due := timings.due(records.read_on())) and len(due) < before:
            watcher.timings([each.node for each in due], again=before < math.inf)
            before = len(due)
            for each in due:
                gpus = room.take(each.node.gpus, homes[pairing(each.node)])
                assert gpus is not None, "no stage is running any more"
                record = threads.submit(timed, each, gpus).result()
                room.give(gpus)
                store.append(record)
                watcher.timed(each.node, record)
                if each.baseline is None:
                    timings.ended(record)
                    with aside():
                        _files(each.node, record, store)
        if before < math.inf:
            with aside():
                tidy()
    if tuning is not None:
        store.append({"kind": "end", "run": run_id, "seconds": time.perf_counter() - started, "status": "done"})
    asked = [cell for cell in whole.cells if cell.name in names]
    refused = [cell for cell in asked if cell.refused or statuses.get(cell.path[-1].id) == "refused"]
    return Result(
        statuses,
        tuple(refused),
        store.folder,
        records,
        len(asked),
        tuple(dict.fromkeys(beside)),
        frozenset(still_needed()),
    )


@contextlib.contextmanager
def _threads(executor: Executor, number: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that wait for nodes. Where all is to end, as on Ctrl-C, the nodes end first."""
    threads = ThreadPoolExecutor(number)
    try:
        yield threads
    except BaseException:
        executor.stop()
        raise
    finally:
        threads.shutdown(cancel_futures=True)


def _marked(outcome: Outcome) -> dict[str, Any]:
    """What was measured; where another job ran beside it, timings are not of a quiet machine, whatever its load said."""
    measured = dict(outcome.measured)
    if outcome.beside and "trust" in measured:
        measured["trust"] = Trust(**measured["trust"]).crowded().written()
    return measured


def _measured(node: Node, job: Job, executor: Executor, timeout: float | None, watcher: Watcher) -> dict[str, Any]:
    """Run a node's processes: one for the stage, which is `job`, then those that measure inference."""
    progress = watcher.node(node)
    began = time.perf_counter()
    if making := node.subject.model.to_make():
        # In a process of its own, so that no stage's time and timeout has it in.
        watcher.making(making)
        made = _outcome(executor, replace(job, what="make"), None, progress)
        if made.status != "ok":
            seconds = {"total": time.perf_counter() - began}
            return {"seconds": seconds, "status": made.status, "reason": f"{making}: {made.reason}", "log": made.log}
        began = time.perf_counter()
    outcome = _outcome(executor, job, timeout, progress)
    measured = _marked(outcome)
    if outcome.status == "ok" and job.measure.latency:
        served, failed = _served(job, executor, timeout, progress)
        measured, outcome = _merge(measured, served), failed or outcome
    seconds = measured.get("seconds", {})
    measured["seconds"] = {**seconds, "total": time.perf_counter() - began + seconds.get("earlier", 0.0)}
    return {**measured, "status": outcome.status, "reason": outcome.reason, "log": outcome.log}


def _served(
    job: Job, executor: Executor, timeout: float | None, progress: Progress
) -> tuple[dict[str, Any], Outcome | None]:
    """Run the processes that measure the inference of the model that `job` left; and what failed, where that was more."""
    measure = job.measure
    measured: dict[str, Any] = {}
    for process in range(measure.latency_processes):
        served = _outcome(executor, replace(job, what="serve", process=process), timeout, progress)
        measured = _merge(measured, _marked(served))
        if served.status in ("oom", "timeout"):
            # The model is what the recipe says, and what was measured of it stays.
            reason = f"in process {process + 1} of {measure.latency_processes}: {served.status}: {served.reason}"
            return _merge(measured, {"absent": dict.fromkeys(_unmeasured(measured, measure), reason)}), None
        if served.status != "ok":
            reason = served.reason
            if not reason.startswith(disk.FULL):
                reason = f"while measuring inference: {reason}"
            return measured, Outcome(served.status, reason, served.log)
    return measured, None


def _turns(
    due: Due,
    run_id: str,
    whole: Plan,
    store: Store,
    executor: Executor,
    timeout: float | None,
    watcher: Watcher,
    records: Records,
    gpus: tuple[str, ...],
) -> dict[str, Any]:
    """Time a training in turns with the baseline's."""
    assert due.baseline is not None
    progress, began, started = watcher.node(due.node), time.perf_counter(), _now()
    here = whole.machine
    turns = in_turns(due, records, here.gpu_memory if here.device == "cuda" else here.memory)
    job = replace(
        job_of(due.node, whole, store.folder, gpus),
        what="turns",
        turns=turns,
        turns_input=checkpoint.path(store.folder, due.baseline.parent) if due.baseline.parent else None,
        log=store.folder / "logs" / f"{due.node.id}-turns.log",
    )
    outcome = _outcome(executor, job, timeout, progress)
    if outcome.status == "oom" and turns.alive:
        outcome = _outcome(executor, replace(job, turns=replace(turns, alive=False)), timeout, progress)
    if outcome.status == "ok":
        job.log.unlink(missing_ok=True)
    return {
        "kind": "turns",
        "run": run_id,
        "node": due.node.id,
        "baseline": due.baseline.id,
        "seed": due.node.seed,
        "started": started,
        **outcome.measured,
        "seconds": {**outcome.measured.get("seconds", {}), "total": time.perf_counter() - began},
        "status": outcome.status,
        "reason": outcome.reason,
        "log": outcome.log,
    }


def _latency_again(
    node: Node,
    whole: Plan,
    store: Store,
    executor: Executor,
    timeout: float | None,
    watcher: Watcher,
    records: Records,
    gpus: tuple[str, ...],
) -> dict[str, Any]:
    """Time the latency of the model that `node` left once more: its record, with this in it where all of it was measured."""
    progress, began = watcher.node(node), time.perf_counter()
    before = records.nodes[node.id]
    served, failed = _served(job_of(node, whole, store.folder, gpus), executor, timeout, progress)
    record = {**before, "retimed": before.retimed + 1}
    if not failed and served.get("latency") and not served.get("absent"):
        record |= {"latency": served["latency"], "trust": {**(before.get("trust") or {}), **served["trust"]}}
    return {**record, "seconds": {**before["seconds"], "retimed": time.perf_counter() - began}}


def job_of(node: Node, whole: Plan, folder: Path, gpus: tuple[str, ...] = ()) -> Job:
    """What is to be done for `node`, with its files in the results `folder`."""
    return Job(
        what="stage",
        node=node.id,
        recipe=node.recipe.spell(defaults=True),
        model=node.subject.model_spec,
        task=node.subject.task_spec,
        suite_folder=whole.suite_folder,
        seed=node.seed,
        budget=whole.suite.budget,
        measure=whole.suite.measure,
        machine=whole.machine,
        input=checkpoint.path(folder, node.parent) if node.parent else None,
        uncompressed=checkpoint.path(folder, node.uncompressed) if node.uncompressed else None,
        output=checkpoint.path(folder, node.id),
        log=folder / "logs" / f"{node.id}.log",
        gpus=gpus,
        temporary=checkpoint.temporary(folder) / node.id,
        allow_remote_code=whole.suite.allow_remote_code,
    )


def _outcome(executor: Executor, job: Job, timeout: float | None, progress: Progress) -> Outcome:
    """What becomes of `job`; an error of the files around it is its end, and costs nothing that was measured before."""
    try:
        return executor.run(job, timeout, progress)
    except OSError as error:
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return Outcome("failed", f"{disk.FULL}: {said}" if disk.full(error) else f"around the job: {said}")


MAY_END_OTHERWISE = ("failed", "oom", "timeout")
"""The ends of a stage after which its training goes on from where it was saved; after others it would end the same."""


def _files(node: Node, record: Mapping[str, Any], store: Store) -> None:
    """What lies beside the record of `node`, which is on the disk by now.

    Raises:
        OSError: a file could not be written or removed.
    """
    left = checkpoint.path(store.folder, node.id)
    if record["status"] not in MAY_END_OTHERWISE:
        checkpoint.of_training(left).unlink(missing_ok=True)
    if record["status"] != "ok":
        left.unlink(missing_ok=True)
        return
    (store.folder / "logs" / f"{node.id}.log").unlink(missing_ok=True)
    if record.get("latency"):
        file = store.folder / "latency" / f"{node.id}.json"
        file.parent.mkdir(exist_ok=True)
        pyperf_file.write(record["latency"], file)


def _unmeasured(measured: Mapping[str, Any], measure: Measure) -> list[str]:
    """What the processes that measure inference were to measure and did not; ``latency`` where each shape has some."""
    timed = {(entry["batch"], entry["length"]) for entry in measured.get("latency") or []}
    known = measured.get("inference") or {}
    bytes_ = {"load_peak_bytes": "load_peak_bytes", "peak_bytes": "inference_peak_bytes"} if measure.memory else {}
    found = [f"latency_{batch}x{length}" for batch, length in measure.latency if (batch, length) not in timed]
    found += [name for key, name in bytes_.items() if known.get(key) is None]
    return found or ["latency"]


def _merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """What two processes of a node measured: parts as they say, lists joined, seconds added, other tables put together."""
    merged = dict(first)
    for key, value in second.items():
        if key not in first:
            merged[key] = value
        elif isinstance(value, list):
            merged[key] = [*first[key], *value]
        elif key == "trust":
            merged[key] = Trust(**first[key]).merged(Trust(**value)).written()
        elif key == "inference":
            merged[key] = Inference(**first[key]).merged(Inference(**value)).written()
        elif key == "seconds":
            merged[key] = {name: first[key].get(name, 0.0) + value.get(name, 0.0) for name in {**first[key], **value}}
        else:
            merged[key] = {**first[key], **value}
    return merged


def _record_refusals(whole: Plan, names: set[str], store: Store, records: Records, run_id: str) -> None:
    for cell in whole.cells:
        last = cell.path[-1]
        reason = "; ".join(cell.refused)
        before = records.nodes.get(last.id)
        if cell.refused and cell.name in names and (before is None or before.reason != reason):
            store.append({**_node_line(run_id, last, whole), "status": "refused", "reason": reason, "log": ""})


def _run_line(
    run_id: str,
    whole: Plan,
    names: set[str],
    environment: Mapping[str, Any],
    folder: Path,
    looks: Sequence[int],
    tuning: Sequence[Tuned],
) -> dict[str, Any]:
    suite = whole.suite
    return {
        "kind": "run",
        "run": run_id,
        "title": suite.title,
        "baseline": suite.baseline_name,
        "seeds": suite.seeds,
        "recipes": {name: str(recipe) for name, recipe in suite.parsed().items()},
        "cells": [
            {
                "name": cell.name,
                "recipe": str(cell.recipe),
                "model": cell.subject.model.name,
                "task": cell.subject.task.name,
                "seed": cell.seed,
                "path": [node.id for node in cell.path],
                "refused": list(cell.refused),
            }
            for cell in whole.cells
        ],
        "suite": suite.model_dump(mode="json", exclude_unset=True),
        "suite_folder": os.path.relpath(whole.suite_folder, folder),
        "notes": [asdict(note) for note in whole.notes(names)],
        "primary": {cell.subject.task.name: cell.subject.task.primary for cell in whole.cells},
        "data": {cell.subject.task.name: dict(cell.subject.task.counts()) for cell in whole.cells},
        "margins": suite.compare.margins().record(),
        "references": list(plan.references(whole)),
        **({"settle": {"looks": list(looks)}} if looks else {}),
        **({"tuning": [asdict(tuned) for tuned in tuning]} if tuning else {}),
        "environment": environment,
        "started": _now(),
        "version": version("methodbench"),
    }


def _node_line(run_id: str, node: Node, whole: Plan) -> dict[str, Any]:
    return {
        "kind": "node",
        "id": node.id,
        "parent": node.parent,
        "single_process": node.single_process,
        "run": run_id,
        "recipe": str(node.recipe),
        "stage": str(node.stage),
        "arguments": node.stage.spell(defaults=True),
        "depth": node.depth,
        "base_kind": node.stage.main.kind,
        "model": node.subject.model.name,
        "task": node.subject.task.name,
        "model_fingerprint": node.subject.model_fingerprint,
        "task_fingerprint": node.subject.task_fingerprint,
        "head": node.subject.structure.head,
        "seed": node.seed,
        "budget": whole.suite.budget.model_dump(),
        "measure": whole.suite.measure.model_dump(),
        "started": _now(),
    }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
