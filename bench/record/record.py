"""The records of a results folder: ``records.jsonl``, one JSON object a line. Nothing else holds a result.

A line is written when something has ended, whatever its end, and is on the disk when :meth:`Store.append`
returns. Values are raw (times, losses, predictions); :mod:`bench.metrics.metrics` derives figures when they are read.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import json
import math
import os
import re
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from bench.machine import disk
from bench.machine.output import visible
from bench.machine.paths import irregular
from bench.metrics import metrics
from bench.record.migration import migrated

if TYPE_CHECKING:
    import pandas

    from bench.metrics.metrics import Record

FILE = "records.jsonl"

SCHEMA = 2
# The history of the format. A reader knows every schema up to its own, and refuses a newer one rather than
# misread it; what an older reader may safely overlook (one more key) needs no new number.
#
#   1  methodbench 0.1.0. Kinds of line: "run" (a run began), "node" (a stage ended, whatever its end), "end"
#      (a run ended). Seconds, bytes and counts without prefix; times of day in ISO 8601, UTC. JSON has no NaN
#      and no infinity, so both are null, which in the list of losses is read as NaN.
#   2  A run's `reference` is called `baseline`, and a latency's `reference` `uncompressed`.

STATUSES = ("ok", "oom", "failed", "timeout", "invalid", "diverged", "refused")
"""The ends of a node."""

RESERVE = 2**20
"""Bytes that a run keeps free for the record that says that the disk is full: many times the usual one."""

_NEEDED = {"run": ("run",), "node": ("id", "run", "status"), "end": ("run",)}


class RecordError(Exception):
    """Records cannot be written or read. The message names the place, what is wrong and how to mend it."""


class Unwritten(RecordError):
    """A record could not be written. Those before it are safe."""


@dataclass
class Records:
    """What a results folder holds.

    ``nodes`` has the latest record of each node by id: two records of one node are two answers to one
    question, and the later is what the machine says now. That holds for a failure after a success too: older
    figures in its place would hide it. ``ends`` has the end of each run by the run's id; a run without one
    was broken off. ``warnings`` names each line that is left out.
    """

    file: Path
    nodes: Mapping[str, Record] = field(default_factory=dict)
    runs: list[Record] = field(default_factory=list)
    ends: dict[str, Record] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> set[str]:
        """The nodes that ended ok."""
        look = sketches(self.nodes)
        return {id_ for id_ in self.nodes if look(id_)["status"] == "ok"}

    def path(self, node: str) -> list[Record]:
        """The records from the first stage to `node`; empty where one is missing: it has no figures then."""
        path: list[Record] = []
        step: str | None = node
        # Only a damaged file has a circle in it, and then no path has an end.
        while step is not None and step in self.nodes and len(path) < len(self.nodes):
            path.append(self.nodes[step])
            step = path[-1].get("parent")
        return path[::-1] if step is None else []


class Nodes(Mapping[str, "Record"]):
    """The latest record of each node. Only where it stands in the file is held: it is read when it is asked for.

    A hundred thousand records are a gigabyte of text, and several of objects.
    """

    def __init__(self, file: Path) -> None:
        self._places: dict[str, tuple[int, int, Record]] = {}
        self._sketches: dict[str, Record] = {}
        self._fd = os.open(file, os.O_RDONLY)
        weakref.finalize(self, os.close, self._fd)
        self._recent: OrderedDict[str, Record] = OrderedDict()

    def put(self, record: Record, start: int, length: int) -> None:
        """`record` stands in the file from byte `start` on."""
        sketch = {
            "status": record["status"],
            "environment": record.get("environment"),
            "latency": [_without(e) for e in record.get("latency") or []],
        }
        known = self._sketches.setdefault(json.dumps(sketch), sketch)
        self._places[record["id"]] = start, length, known

    def sketch(self, id_: str) -> Record:
        """Of the node's record, status, environment and shapes of latencies: one object for all that are the same."""
        return self._places[id_][2]

    def __getitem__(self, id_: str) -> Record:
        if id_ in self._recent:
            self._recent.move_to_end(id_)
            return self._recent[id_]
        start, length, sketch = self._places[id_]
        record: dict[str, Any] = _parsed(os.pread(self._fd, length, start))
        if "environment" in record:
            record["environment"] = sketch["environment"]
        self._recent[id_] = record
        if len(self._recent) > _RECENT:
            self._recent.popitem(last=False)
        return record

    def __contains__(self, id_: object) -> bool:
        return id_ in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def sketches(nodes: Mapping[str, Record]) -> Callable[[str], Record]:
    """What gives at least status, environment and shapes of latencies of one of `nodes`, without reading all of it."""
    return nodes.sketch if isinstance(nodes, Nodes) else nodes.__getitem__


_RECENT = 500
"""Records that are held once they were read, as recipes share stages."""


def _without(entry: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: entry[key] for key in ("batch", "length", "clock", "phase") if key in entry}
    return found | {"uncompressed": {}} if "uncompressed" in entry else found


class Store:
    """A results folder that is written to. Several processes may append at once."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Make `folder`.

        Raises:
            RecordError: it cannot be written.
        """
        self.folder = Path(folder)
        self.file = self.folder / FILE
        with self.writable():
            self.folder.mkdir(parents=True, exist_ok=True)
            # Found out now rather than after the first stage's hour.
            os.close(self._open_lock())
            if self.file.exists():
                if what := irregular(self.file):
                    raise RecordError(f"{self.file}: cannot be written: it is {what}; move it")
                os.close(os.open(self.file, os.O_RDWR | os.O_APPEND))

    @contextlib.contextmanager
    def writable(self) -> Iterator[None]:
        """For what is written in the folder before a run begins.

        Raises:
            RecordError: it cannot be written; Unwritten, where the disk is full.
        """
        try:
            yield
        except OSError as error:
            what, mend = _explain(error)
            kind = Unwritten if disk.full(error) else RecordError
            raise kind(f"{error.filename or self.folder}: cannot be written: {what}; {mend}") from None

    def append(self, record: Record) -> None:
        """Write one line, and return when it is on the disk.

        Raises:
            Unwritten: it could not be written; the file is as it was.
        """
        record = {"schema": SCHEMA, **record}
        assert (fault := _fault(record)) is None, fault
        line = _encode(record)
        try:
            self._append(line)
        except OSError as error:
            if not disk.full(error) or not self._release():
                raise self._unwritten(error) from None
            try:
                self._append(line)
            except OSError as again:
                raise self._unwritten(again) from None

    def _append(self, line: bytes) -> None:
        fd = os.open(self.file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            # Released by closing, and by the kernel if this process is killed.
            fcntl.flock(fd, fcntl.LOCK_EX)
            before = os.fstat(fd).st_size
            # A crash has cut the last line off: it is left as it is, and must not swallow this one.
            torn = before > 0 and os.pread(fd, 1, before - 1) != b"\n"
            try:
                _write(fd, b"\n" + line if torn else line)
                os.fsync(fd)
            except OSError:
                with contextlib.suppress(OSError):  # then the next line begins with a newline
                    os.ftruncate(fd, before)
                raise
            if before == 0:
                with contextlib.suppress(OSError):  # some file systems have no such thing
                    _sync_directory(self.folder)
        finally:
            os.close(fd)

    def _reserve(self) -> None:
        """Keep some space for the record that says that the disk is full."""
        with contextlib.suppress(OSError), disk.atomic(self.folder / ".reserve") as file:
            file.write_bytes(os.urandom(RESERVE))  # which no file system makes smaller

    def _release(self) -> bool:
        """Whether there was a reserve."""
        try:
            (self.folder / ".reserve").unlink()
        except OSError:
            return False
        return True

    def read(self) -> Records:
        """What is recorded so far; nothing in a new folder.

        Raises:
            RecordError: a record is of a newer schema, or the file cannot be read.
        """
        return read(self.folder) if self.file.exists() else Records(self.file)

    @contextlib.contextmanager
    def lock(self, waiting: Callable[[str], None]) -> Iterator[None]:
        """Hold the folder for one run, since two at once would disturb each other's clocks.

        Waits asleep while another run has it, after one call of `waiting` with a message; Ctrl-C ends the
        wait. The kernel frees the folder when its holder ends, however that was.

        Raises:
            RecordError: the folder cannot be locked.
        """
        try:
            fd = self._open_lock()
        except OSError as error:
            raise self._unlocked(error) from None
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
                who = f"another run (process {holder})" if holder else "another run"
                waiting(f"{self.folder}: {who} is at work in this folder; waiting for it to end")
                fcntl.flock(fd, fcntl.LOCK_EX)
            except OSError as error:
                raise self._unlocked(error) from None
            # Only for the message above: the lock is the kernel's, and a stale number does no harm.
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            self._reserve()
            try:
                yield
            finally:
                self._release()
                # Not left to closing alone: a forked child would hold the lock on.
                fcntl.flock(fd, fcntl.LOCK_UN)
        finally:
            os.close(fd)

    def _open_lock(self) -> int:
        # Python opens files close-on-exec, so that no worker inherits the lock.
        return os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)

    def _unlocked(self, error: OSError) -> RecordError:
        what, mend = _explain(error)
        return RecordError(f"{self.folder}: cannot be locked: {what}; {mend}")

    def _unwritten(self, error: OSError) -> Unwritten:
        try:
            with self.file.open("rb") as file:
                safe = sum(line.endswith(b"\n") for line in file)
        except OSError:
            safe = 0
        what, mend = _explain(error)
        return Unwritten(
            f"{self.file}: {what}: a record could not be written. "
            f"{safe} record{' is' if safe == 1 else 's are'} safe; {mend} and run the same command again"
        )


def read(folder: str | os.PathLike[str]) -> Records:
    """What `folder` holds. A line that cannot be read is left out with a warning.

    Raises:
        RecordError: there are no records, they cannot be read, or one is of a newer schema.
    """
    file = Path(folder) / FILE
    if what := irregular(file):
        raise RecordError(f"{file}: cannot be read: it is {what}")
    try:
        stream = file.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        missing = "there are no records in it" if Path(folder).is_dir() else "no such folder"
        raise RecordError(f"{folder}: {missing}; name the folder that `methodbench run` wrote to") from None
    except OSError as error:
        what, mend = _explain(error)
        raise RecordError(f"{file}: cannot be read: {what}; {mend}") from None
    from bench.record.shape import damage

    nodes = Nodes(file)
    records = Records(file, nodes)
    end = 0
    with stream, _no_collection():
        for number, line in enumerate(stream, start=1):
            start, end = end, end + len(line)
            if line.isspace():
                continue
            try:
                record = _parsed(line)
                fault = _fault(record)
            except (ValueError, RecursionError) as error:
                fault = f"not whole JSON, as a crash leaves a line ({error})"
            if fault is None and record["schema"] > SCHEMA:
                raise RecordError(
                    f"{file}:{number}: this record is of schema {record['schema']}, and this methodbench "
                    f"reads up to {SCHEMA}; upgrade it: pip install --upgrade methodbench"
                )
            if fault is None:
                fault = damage(record)
            if fault is not None:
                records.warnings.append(f"{file}:{number}: this line is left out: it is {fault}")
            elif record["kind"] == "node":
                nodes.put(record, start, len(line))
            elif record["kind"] == "run":
                records.runs.append(record)
            else:
                records.ends[record["run"]] = record
    return records


def frame(folder: str | os.PathLike[str]) -> pandas.DataFrame:
    """The records of `folder` as a table: one row a node, by its latest record, in the order first recorded.

    Columns are what identifies the node, its ``status`` and ``reason``, and every metric by name, in the unit
    that ``frame.attrs["units"]`` gives. A figure is of the node's whole recipe, and is NaN where it was not
    measured or where a stage on the way did not end ``ok``. Lines that are left out are warned of.

    Raises:
        RecordError: there are no records, or one is of a newer schema.
    """
    import pandas

    records = read(folder)
    for text in records.warnings:
        warnings.warn(text, stacklevel=2)
    columns = metrics.measured(map(sketches(records.nodes), records.nodes))
    rows = []
    for id_, record in records.nodes.items():
        path = records.path(id_)
        paired = [metrics.paired(step, records.nodes) for step in path]
        ok = all(step["status"] == "ok" for step in path)
        machine = (record.get("environment") or {}).get("machine") or {}
        rows.append(
            [record.get(name) for name in _IDENTITY]
            + [machine.get(name) for name in _MACHINE]
            + [metric.read(paired) if ok else None for metric in columns]
        )
    names = [metric.name for metric in columns]
    table = pandas.DataFrame(rows, columns=[*_IDENTITY, *_MACHINE, *names])
    table = table.astype(dict.fromkeys(names, "float64"))
    table.attrs["units"] = {metric.name: metric.unit for metric in columns}
    return table


_IDENTITY = (
    "id", "parent", "run", "status", "reason", "recipe", "stage", "depth", "base_kind", "model", "task",
    "model_fingerprint", "task_fingerprint", "seed", "started",
)  # fmt: skip
_MACHINE = ("device", "device_name", "cpu", "threads")


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


def _parsed(line: bytes) -> Any:
    record = migrated(json.loads(line.decode()))
    if _NO_SIGN.search(line):
        record = _visible(record)
    training = record.get("training") if isinstance(record, dict) and record.get("kind") == "node" else None
    if isinstance(training, dict) and isinstance(losses := training.get("losses"), list):
        training["losses"] = [math.nan if loss is None else loss for loss in losses]
    return record


def _fault(record: object) -> str | None:
    """Why `record` is not one of ours; None where it is, or where a newer methodbench must say."""
    if not isinstance(record, dict) or type(record.get("schema")) is not int:
        return "not a record"
    if record["schema"] > SCHEMA:
        return None
    kind = record.get("kind")
    if not isinstance(kind, str) or kind not in _NEEDED:
        return f"of an unknown kind, {kind!r}"
    for key in _NEEDED[kind]:
        if not isinstance(record.get(key), str):
            return f"a {kind} without `{key}`"
    if kind == "node" and record["status"] not in STATUSES:
        return f"a node of unknown status, {record['status']!r}"
    if not isinstance(record.get("parent"), str | None):
        return "a node whose parent is not an id"
    return None


_NO_SIGN = re.compile(rb"\\u(?:00[0189]|007f|d[89a-f])|\x7f|\xc2[\x80-\x9f]", re.IGNORECASE)
"""Where JSON may hold what is no sign to be read: control characters, halves of characters."""


def _visible(value: Any) -> Any:
    """`value` with all its texts as they may be shown: whatever wrote them may have had colours, or worse, in mind."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(key): _visible(inner) for key, inner in value.items()}
    return [_visible(inner) for inner in value] if isinstance(value, list) else value


def _encode(record: Record) -> bytes:
    try:
        text = json.dumps(record, allow_nan=False, separators=(",", ":"), default=_plain)
    except ValueError:
        finite = json.loads(json.dumps(record, default=_plain), parse_constant=lambda _: None)
        text = json.dumps(finite, separators=(",", ":"))
    # JSON escapes newlines and all that is not ASCII: one record is one line in any encoding.
    return text.encode("ascii") + b"\n"


def _plain(value: object) -> object:
    """NumPy's and torch's numbers and arrays, and paths."""
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a record cannot hold {value!r}")


def _write(fd: int, data: bytes) -> None:
    """All of `data`: in one write, unless the disk takes only a part; then the next says why."""
    while data:
        written = os.write(fd, data)
        if written == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data = data[written:]


def _sync_directory(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


_REASONS = {
    errno.ENOSPC: (disk.FULL, "free some space"),
    errno.EDQUOT: ("the disk quota is used up", "free some space"),
    errno.EFBIG: ("the file has reached the limit on file sizes", "raise it (`ulimit -f`)"),
    errno.EIO: ("the disk gave an error", "see to the disk"),
    errno.EACCES: ("permission denied", "get the right to it or choose another folder"),
    errno.EPERM: ("permission denied", "get the right to it or choose another folder"),
    errno.EROFS: ("the file system is read-only", "choose another folder"),
    errno.EEXIST: ("a file of this name is in the way", "move it or choose another folder"),
    errno.ENOTDIR: ("a part of this path is a file", "move it or choose another folder"),
    errno.EISDIR: ("a folder of this name is in the way", "move it or choose another folder"),
    errno.ENOLCK: ("its file system cannot lock files", "choose a folder on a local disk"),
    errno.ENOTSUP: ("its file system cannot lock files", "choose a folder on a local disk"),
}


def _explain(error: OSError) -> tuple[str, str]:
    """What is wrong, and how to mend it."""
    return _REASONS.get(error.errno or 0, (error.strerror or str(error), "choose another folder"))
