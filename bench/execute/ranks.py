"""One stage in several processes, forked from its own: one ends badly, and all end.

A job's process has heard of torch but has neither used it nor CUDA, so forking it is safe, and costs hundredths of a
second where new interpreters would cost seconds each. The processes meet at a store that listens on a port which is
open before they start: no other program can take it in between. Where several machines share a stage
(:class:`bench.stage.job.Share`), each forks its own ones; the first machine has the store.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any

from bench.execute import worker
from bench.execute.forkserver import died, kernel_kills
from bench.recipe.declarations import Axis
from bench.record.schema import Status
from bench.stage.job import Job, Progress, Share, threads_each, untold

GRACE = 2.0
"""Seconds that the others have, after the first has failed, to say what they know of it."""

Ending = tuple[Status, str, dict[str, Any]]


def run(job: Job, layout: Mapping[Axis, int], progress: Progress) -> Ending:
    """Do `job` in as many processes as `layout` has cells, or this machine's share of them.

    How it ended, why, and what the first process here measured.
    """
    started = time.perf_counter()
    size = math.prod(layout.values())
    share = job.share
    if share is None:
        listener = socket.create_server(("127.0.0.1", 0))
        share = Share(0, size, listener.getsockname(), listener)
    context = multiprocessing.get_context("fork")
    processes: list[ForkProcess] = []
    connections: list[Connection] = []
    killed_before = kernel_kills()
    try:
        for rank in range(share.first, share.first + share.here):
            ours, theirs = context.Pipe(duplex=False)
            args = (theirs, job, layout, rank, share, os.getpid(), started)
            process = context.Process(target=_rank, args=args, daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            connections.append(ours)
        names = [f"process {share.first + number} of {size}" for number in range(share.here)]
        return _answer(processes, connections, names, killed_before, progress)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()
        for connection in connections:
            connection.close()
        if share.listener:
            share.listener.close()


def _rank(
    connection: Connection,
    job: Job,
    layout: Mapping[Axis, int],
    rank: int,
    share: Share,
    parent: int,
    started: float,
) -> None:
    worker.follow(parent)
    import torch

    from bench.distributed import group

    size = math.prod(layout.values())
    machine = replace(job.machine, threads=threads_each(job.machine, size))
    met = started

    def meet() -> group.Group:
        nonlocal met
        assert share.address is not None
        own = share.listener.fileno() if share.listener and rank == 0 else None
        store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
            *share.address, size, rank == 0, group.RENDEZVOUS, master_listen_fd=own
        )
        joined = group.join(store, rank, layout, torch.device(machine.device), share.first)
        met = time.perf_counter()
        return joined

    progress = worker.Throttled(connection) if rank == 0 else untold
    status, reason, measured = worker.run_job(replace(job, machine=machine), progress, meet)
    measured.setdefault("seconds", {})["launch"] = met - started
    connection.send(("done", status, reason, measured))
    connection.close()


def _answer(
    processes: Sequence[ForkProcess],
    connections: Sequence[Connection],
    names: Sequence[str],
    killed_before: int,
    progress: Progress,
) -> Ending:
    """What the first process answers if all end well; otherwise what went wrong first."""
    answers: dict[int, Ending] = {}
    dead: list[int] = []
    until: float | None = None
    while len(answers) + len(dead) < len(processes):
        waiting = [c for number, c in enumerate(connections) if number not in answers and number not in dead]
        ready = wait(waiting, None if until is None else max(0.0, until - time.monotonic()))
        if not ready:
            break
        for connection in ready:
            number = connections.index(connection)
            try:
                message = connections[number].recv()
            except (EOFError, OSError):
                dead.append(number)
            else:
                if message[0] == "progress":
                    progress(*message[1:])
                    continue
                if message[0] == "kept":
                    if isinstance(progress, worker.Throttled):
                        progress.keep(message[1])
                    continue
                answers[number] = message[1:]
            if until is None and (number in dead or answers[number][0] != "ok"):
                until = time.monotonic() + GRACE
    for number in dead:
        # Who dies takes the connections of the others with it, so what these say is only the consequence.
        processes[number].join(5)
        status, reason = died(processes[number].exitcode, killed_before)
        return status, f"{names[number]}: {reason}", {}
    for number, (status, reason, measured) in sorted(answers.items(), key=lambda said: worker.GONE in said[1][1]):
        if status in ("invalid", "refused"):
            return status, reason, measured
        if status != "ok":
            return status, f"{names[number]}: {reason}", measured
    return answers[0]
