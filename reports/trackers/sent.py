"""What was sent to which tracker: ``tracked.json`` in the results folder, so that nothing is sent twice."""

from __future__ import annotations

import json
from pathlib import Path

from bench.machine import disk
from bench.record.errors import RecordError

FILE = "tracked.json"
_SCHEMA = 1


class Sent:
    """The file: for each tracker and each cell, by the id of its last stage, the digest of what was sent."""

    def __init__(self, folder: Path) -> None:
        """Read it.

        Raises:
            RecordError: it is damaged, or of a newer version.
        """
        self._file = folder / FILE
        self._sent: dict[str, dict[str, str]] = {}
        if not self._file.exists():
            return
        mend = f"remove it, and `methodbench track {folder} --to TRACKER` sends everything again"
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
            if found["schema"] > _SCHEMA:
                raise RecordError(
                    f"{self._file}: `schema` is {found['schema']}, and this version knows {_SCHEMA}; upgrade methodbench"
                )
            self._sent = {
                str(name): {str(id_): str(it) for id_, it in of.items()} for name, of in found["sent"].items()
            }
        except (ValueError, TypeError, KeyError, AttributeError):
            raise RecordError(f"{self._file}: it is damaged; {mend}") from None

    @property
    def trackers(self) -> list[str]:
        """Those that something was, or was to be, sent to."""
        return list(self._sent)

    def has(self, tracker: str, id_: str, digest: str) -> bool:
        """Whether just this was sent."""
        return self._sent.get(tracker, {}).get(id_) == digest

    def note(self, tracker: str, cell: tuple[str, str] | None = None) -> None:
        """`tracker` is one to send to; with a `cell`, its id and digest, this was sent.

        Raises:
            OSError: it cannot be written.
        """
        self._sent.setdefault(tracker, {}).update([cell] if cell else ())
        with disk.atomic(self._file) as half:
            half.write_text(json.dumps({"schema": _SCHEMA, "sent": self._sent}, indent=1), encoding="utf-8")
