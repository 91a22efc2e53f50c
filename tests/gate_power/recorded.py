"""Timings that were recorded: made here, read from a file, and resampled.

A recording is a file of lines, each one pair: ``{"base": [...], "head": [...]}``, the seconds of each repeat of a worker of
the same code. ``aa.jsonl`` beside this module is one: 80 pairs of a forward pass on two shared, virtual cores, both busy.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from tests.gate_power.noise import REPEATS, WORKERS, Trials

FILE = Path(__file__).with_name("aa.jsonl")
WINDOWS = Path(__file__).with_name("windows.jsonl")
"""500 more pairs, on two such cores at a load of 4 to 8, for gates that follow each other."""
BLOCK = 5
"""Neighbouring pairs that are resampled together, so that what neighbours have in common stays."""


def record(file: Path, pairs: int) -> None:
    """Write `pairs` pairs of the same forward pass to `file`: two fresh processes, which take turns."""
    context = multiprocessing.get_context("spawn")
    with file.open("w", encoding="utf-8") as lines:
        for number in range(pairs):
            sides = {}
            for name in ("base", "head") if number % 2 else ("head", "base"):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs,), daemon=True)
                process.start()
                theirs.close()
                sides[name] = (process, ours)
            for _, ours in sides.values():
                ours.recv()  # it is warm
            seconds: dict[str, list[float]] = {name: [] for name in sides}
            for repeat in range(REPEATS):
                for name in list(sides) if repeat % 2 else reversed(sides):
                    sides[name][1].send(None)
                    seconds[name].append(sides[name][1].recv())
            for process, ours in sides.values():
                ours.close()
                process.join()
            lines.write(json.dumps({name: seconds[name] for name in ("base", "head")}) + "\n")
            lines.flush()
            print(f"pair {number + 1} of {pairs}", file=sys.stderr)


def _work(connection: Connection) -> None:
    """Answer each message with the CPU time of a forward pass of an encoder as large as MiniLM, in one thread."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(384, 12, 1536, batch_first=True, activation="gelu")
    model = torch.nn.TransformerEncoder(layer, 6).eval()
    batch = torch.randn(8, 48, 384)
    with torch.inference_mode():
        for _ in range(3):
            model(batch)
        connection.send(None)
        while True:
            try:
                connection.recv()
            except EOFError:
                return
            before = time.process_time()
            model(batch)
            connection.send(round(time.process_time() - before, 7))


def read(file: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The base's and the head's seconds in `file`, each of (pairs, repeats), by name.

    `file` is a recording, or the ``gate.json`` of an A/A gate: each of its checks that was measured in pairs, of which it
    has one value a worker.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is neither, it has fewer than 20 pairs, or a time in it is not a positive number.
    """
    text = file.read_text(encoding="utf-8")
    try:
        if file.suffix == ".json":
            checks = [check for check in json.loads(text)["checks"] if check["how"] == "pairs"]
            found = {
                f"{check['recipe']}: {check['metric']}": [
                    [[value] for value in check[f"{side}_values"]] for side in SIDES
                ]
                for check in checks
            }
        else:
            lines = [json.loads(line) for line in text.splitlines()]
            found = {file.stem: [[line[side] for line in lines] for side in SIDES]}
        sides = {name: (np.array(base, float), np.array(head, float)) for name, (base, head) in found.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: it is neither a recording nor a gate.json: {error!r}") from None
    for name, (base, head) in sides.items():
        if base.shape != head.shape or len(base) < WORKERS:
            raise ValueError(
                f"{file}: {name}: {len(base)} and {len(head)} workers; at least {WORKERS} pairs are needed"
            )
        if not all((np.isfinite(side) & (side > 0)).all() for side in (base, head)):
            raise ValueError(f"{file}: {name}: a time is not a positive number")
    return sides


SIDES = ("base", "head")


def resample(base: np.ndarray, head: np.ndarray, rng: np.random.Generator, trials: int, pairs: int) -> Trials:
    """`trials` times `pairs` recorded pairs, drawn with replacement in blocks of neighbours.

    The stored baseline of a trial is of one moment: neighbours, from one place of the recording.
    """
    places = rng.integers(len(base), size=(trials, -(-pairs // BLOCK), 1)) + np.arange(BLOCK)
    drawn = places.reshape(trials, -1)[:, :pairs] % len(base)
    stored = (rng.integers(len(base), size=(trials, 1)) + np.arange(WORKERS)) % len(base)
    return Trials(base[drawn], head[drawn], base[stored])
