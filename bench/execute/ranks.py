"""One stage in several processes, forked from its own: one ends badly, and all end.

A job's process has heard of torch but has neither used it nor CUDA, so forking it is safe, and costs hundredths of a
second where new interpreters would cost seconds each. The processes meet at a store that listens on a port which is
open before they start: no other program can take it in between.
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
from bench.execute.base import Job, Progress, Status
from bench.execute.forkserver import died, kernel_kills
from bench.method import Split

GRACE = 2.0
"""Seconds that the others have, after the first has failed, to say what they know of it."""

Answer = tuple[Status, str, dict[str, Any]]


def run(job: Job, layout: Mapping[Split, int], progress: Progress) -> Answer:
    """Do `job` in as many processes as `layout` has cells: how it ended, why, and what the first of them measured."""
    started = time.perf_counter()
    listener = socket.create_server(("127.0.0.1", 0))
    context = multiprocessing.get_context("fork")
    processes: list[ForkProcess] = []
    connections: list[Connection] = []
    killed_before = kernel_kills()
    try:
        for rank in range(math.prod(layout.values())):
            ours, theirs = context.Pipe(duplex=False)
            args = (theirs, job, layout, rank, listener, os.getpid(), started)
            process = context.Process(target=_rank, args=args, daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            connections.append(ours)
        return _answer(processes, connections, killed_before, progress)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()
        for connection in connections:
            connection.close()
        listener.close()


def _rank(
    connection: Connection,
    job: Job,
    layout: Mapping[Split, int],
    rank: int,
    listener: socket.socket,
    parent: int,
    started: float,
) -> None:
    worker.follow(parent)
    import torch

    from bench import parallel

    size = math.prod(layout.values())
    # The machine's threads are divided; where there are more processes than threads, each still needs one.
    machine = replace(job.machine, threads=max(1, job.machine.threads // size))
    met = started

    def meet() -> parallel.Group:
        nonlocal met
        host, port = listener.getsockname()
        store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
            host, port, size, rank == 0, parallel.RENDEZVOUS, master_listen_fd=listener.fileno() if rank == 0 else None
        )
        group = parallel.join(store, rank, layout, torch.device(machine.device))
        met = time.perf_counter()
        return group

    progress = worker.Throttled(connection) if rank == 0 else lambda what, done, of: None
    status, reason, measured = worker.alone(replace(job, machine=machine), progress, meet)
    measured.setdefault("seconds", {})["launch"] = met - started
    connection.send(("done", status, reason, measured))
    connection.close()


def _answer(
    processes: Sequence[ForkProcess], connections: Sequence[Connection], killed_before: int, progress: Progress
) -> Answer:
    """What the first process answers if all end well; otherwise what went wrong first."""
    answers: dict[int, Answer] = {}
    dead: list[int] = []
    until: float | None = None
    while len(answers) + len(dead) < len(processes):
        waiting = [c for rank, c in enumerate(connections) if rank not in answers and rank not in dead]
        ready = wait(waiting, None if until is None else max(0.0, until - time.monotonic()))
        if not ready:
            break
        for connection in ready:
            rank = connections.index(connection)
            try:
                message = connections[rank].recv()
            except (EOFError, OSError):
                dead.append(rank)
            else:
                if message[0] == "progress":
                    progress(*message[1:])
                    continue
                answers[rank] = message[1:]
            if until is None and (rank in dead or answers[rank][0] != "ok"):
                until = time.monotonic() + GRACE
    for rank in dead:
        # Who dies takes the connections of the others with it, so what these say is only the consequence.
        processes[rank].join(5)
        status, reason = died(processes[rank].exitcode, killed_before)
        return status, f"process {rank} of {len(processes)}: {reason}", {}
    for rank, (status, reason, measured) in answers.items():
        if status in ("invalid", "refused"):
            return status, reason, measured
        if status != "ok":
            return status, f"process {rank} of {len(processes)}: {reason}", {}
    return answers[0]
