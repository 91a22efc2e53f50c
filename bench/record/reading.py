"""Reading ``records.jsonl``. A stage's record stays in the file until it is asked for."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.machine.paths import irregular
from bench.record.errors import RecordError, explain
from bench.record.line import FILE, parsed
from bench.record.schema import End, Newer, Node, Reference, Run, Turns, line


@dataclass
class Records:
    """What a results folder holds, as far as it was read.

    ``nodes`` has the latest record of each stage by id: two records of one stage are two answers to one
    question, and the later is what the machine says now. That holds for a failure after a success too: older
    figures in its place would hide it. ``references`` are the same of what qualities are to be seen beside. ``ends`` has the
    end of each run by the run's id; a run without one was broken off. ``turns`` has each time that two trainings took turns,
    by the id of the baseline's stage, then of the other's. ``warnings`` names each line that is left out.
    """

    file: Path
    nodes: Nodes = field(init=False)
    runs: list[Run] = field(default_factory=list)
    references: dict[str, Reference] = field(default_factory=dict)
    ends: dict[str, End] = field(default_factory=dict)
    turns: dict[str, dict[str, list[Turns]]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _end: int = field(default=0, repr=False)
    _lines: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        self.nodes = Nodes(self.file)

    @property
    def ok(self) -> set[str]:
        """The stages that ended ok."""
        return {id_ for id_ in self.nodes if self.nodes.sketch(id_)["status"] == "ok"}

    def path(self, node: str) -> list[Node]:
        """The records from the first stage to `node`; empty where one is missing: it has no figures then."""
        path: list[Node] = []
        step: str | None = node
        # Only a damaged file has a circle in it, and then no path has an end.
        while step is not None and step in self.nodes and len(path) < len(self.nodes):
            path.append(self.nodes[step])
            step = path[-1].parent
        return path[::-1] if step is None else []

    def read_on(self) -> Records:
        """Read what the file has beyond what was read before. A line that cannot be read is left out with a warning.

        Raises:
            RecordError: the file cannot be read, or a record in it is of a newer schema.
        """
        if what := irregular(self.file):
            raise RecordError(f"{self.file}: cannot be read: it is {what}")
        try:
            stream = self.file.open("rb")
        except OSError as error:
            what, mend = explain(error)
            raise RecordError(f"{self.file}: cannot be read: {what}; {mend}") from None
        with stream, _no_collection():
            stream.seek(self._end)
            for text in stream:
                self._read(text)
        return self

    def _read(self, text: bytes) -> None:
        number, start = self._lines + 1, self._end
        self._end += len(text)
        self._lines += text.endswith(b"\n")  # the rest of a line that was cut off belongs to the same
        if text.isspace():
            return
        try:
            found = line(parsed(text.removesuffix(b"\n")))  # so that a torn line reads the same once it has its end
        except Newer as error:
            raise RecordError(f"{self.file}:{number}: {error}; upgrade it: pip install --upgrade methodbench") from None
        except ValueError as error:
            self.warnings.append(f"{self.file}:{number}: this line is left out: it is {error}")
        else:
            if isinstance(found, Node):
                self.nodes.put(found, start, len(text))
            elif isinstance(found, Run):
                self.runs.append(found)
            elif isinstance(found, Reference):
                self.references[found.id] = found
            elif isinstance(found, Turns):
                self.turns.setdefault(found.baseline, {}).setdefault(found.node, []).append(found)
            else:
                self.ends[found.run] = found


class Nodes(Mapping[str, Node]):
    """The latest record of each stage. Only where it stands in the file is held: it is read when it is asked for.

    A hundred thousand records are a gigabyte of text, and several of objects.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._fd: int | None = None
        self._places: dict[str, tuple[int, int, Mapping[str, Any]]] = {}
        self._sketches: dict[str, Mapping[str, Any]] = {}
        self._recent: OrderedDict[str, Node] = OrderedDict()

    def put(self, node: Node, start: int, length: int) -> None:
        """`node` stands in the file from byte `start` on."""
        sketch = {
            "status": node.status,
            "environment": node.get("environment"),
            "latency": [_without(entry) for entry in node.get("latency") or []],
            "lm_eval": {"scores": dict.fromkeys((node.lm_eval and node.lm_eval.scores) or ())},
        }
        known = self._sketches.setdefault(json.dumps(sketch), sketch)
        self._places[node.id] = start, length, known
        self._recent.pop(node.id, None)

    def sketch(self, id_: str) -> Mapping[str, Any]:
        """Of the stage's record, status, environment, shapes of latencies and names of scores by lm-eval: one object for all that are the same."""
        return self._places[id_][2]

    def __getitem__(self, id_: str) -> Node:
        if id_ in self._recent:
            self._recent.move_to_end(id_)
            return self._recent[id_]
        start, length, sketch = self._places[id_]
        if self._fd is None:
            self._fd = os.open(self._file, os.O_RDONLY)
            weakref.finalize(self, os.close, self._fd)
        whole: dict[str, Any] = parsed(os.pread(self._fd, length, start))
        if "environment" in whole:
            whole["environment"] = sketch["environment"]
        node = self._recent[id_] = Node.of(whole)
        if len(self._recent) > _RECENT:
            self._recent.popitem(last=False)
        return node

    def __contains__(self, id_: object) -> bool:
        return id_ in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def sketches(nodes: Mapping[str, Node]) -> Callable[[str], Mapping[str, Any]]:
    """What gives at least what :meth:`Nodes.sketch` does of one of `nodes`, without reading all of it."""
    return nodes.sketch if isinstance(nodes, Nodes) else nodes.__getitem__


_RECENT = 500
"""Records that are held once they were read, as recipes share stages."""


def _without(entry: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: entry[key] for key in ("batch", "length", "clock", "phase") if key in entry}
    return found | {"uncompressed": {}} if "uncompressed" in entry else found


def read(folder: str | os.PathLike[str]) -> Records:
    """What `folder` holds. A line that cannot be read is left out with a warning.

    Raises:
        RecordError: there are no records, they cannot be read, or one is of a newer schema.
    """
    file = Path(folder) / FILE
    if not file.exists():
        missing = "there are no records in it" if Path(folder).is_dir() else "no such folder"
        raise RecordError(f"{folder}: {missing}; name the folder that `methodbench run` wrote to")
    return Records(file).read_on()


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """JSON has no cycles, and looking for them over and over would make reading slower than linear."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
