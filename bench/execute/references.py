"""Score what quality is to be seen beside, once: the untrained model, and a guess (:mod:`bench.stage.untrained`)."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from dataclasses import replace

from bench.execute.base import Executor, Outcome
from bench.execute.run import job_of
from bench.metrics.units import counted
from bench.plan.plan import Plan, references
from bench.record.reading import Records
from bench.record.store import Store
from bench.stage.job import untold


def run(
    plan: Plan,
    records: Records,
    store: Store,
    executor: Executor,
    tell: Callable[[str], None],
    timeout: float | None = None,
) -> list[str]:
    """Score what has none among `records` that is ok, and say what could not be; `tell` is told how many there are.

    Raises:
        RecordError: a record could not be written.
    """
    recorded = records.references
    waiting = {
        id_: node for id_, node in references(plan).items() if id_ not in recorded or recorded[id_].status != "ok"
    }
    if waiting:
        tell(f"{counted(len(waiting), 'untrained model')} to score")
    failed = []
    for id_, node in waiting.items():
        started, began = datetime.datetime.now(datetime.UTC), time.perf_counter()
        # As the first stage would load it.
        job = replace(
            job_of(node, plan, store.folder), what="untrained", node=id_, log=store.folder / "logs" / f"{id_}.log"
        )
        try:
            outcome = executor.run(job, timeout, untold)
        except OSError as error:
            outcome = Outcome("failed", f"around the job: {error}")
        measured = dict(outcome.measured)
        measured["seconds"] = {**measured.get("seconds", {}), "total": time.perf_counter() - began}
        line = {
            "kind": "reference",
            "id": id_,
            "model": node.subject.model.name,
            "task": node.subject.task.name,
            "seed": node.seed,
            "started": started.isoformat(timespec="seconds"),
            "status": outcome.status,
            "reason": outcome.reason,
            "log": outcome.log,
        }
        store.append({**measured, **line})
        if outcome.status == "ok":
            job.log.unlink(missing_ok=True)
        else:
            where = f"{line['model']} on {line['task']}, seed {node.seed}"
            failed.append(f"the untrained {where} was not scored: {outcome.status}: {outcome.reason}")
    return failed
