"""Results in the forms of other tools: what others measured as rows of a report, and ours for who reads PEFT's form.

What others measured stands apart: it is compared with nothing, and is in no verdict, front or pick.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from bench.machine.paths import irregular
from bench.record.errors import RecordError
from reports.exchange import lm_eval, optimum_benchmark, peft
from reports.exchange.base import Foreign, Part


class Form(Protocol):
    """A module that reads one form."""

    FORM: str
    """Whose it is, and the keys that it is known by."""
    MEND: str
    """What helps where a file of it has another shape."""

    def fits(self, found: Mapping[str, Any]) -> bool:
        """Whether an object with these keys is meant to be of it."""

    def read(self, found: Part) -> list[Foreign]:
        """What it holds, a row for each thing that was measured."""


FORMS: tuple[Form, ...] = (peft, lm_eval, optimum_benchmark)


def read(files: Sequence[Path]) -> list[Foreign]:
    """What `files` hold, of whichever form each is.

    Raises:
        RecordError: one cannot be read, is given twice, or is of no form that is known. It names file, key and mend.
    """
    seen: set[Path] = set()
    rows = []
    for file in files:
        if file.resolve() in seen:
            raise RecordError(f"{file}: it is given twice; give it once")
        seen.add(file.resolve())
        rows += _read(file)
    return rows


def _read(file: Path) -> list[Foreign]:
    if what := irregular(file):
        raise RecordError(f"{file}: cannot be read: it is {what}")
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RecordError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{file}: it is not JSON ({error}); give the file as its tool wrote it") from None
    if isinstance(found, dict):
        for form in FORMS:
            if form.fits(found):
                return form.read(Part(file, found, form.MEND))
        what = f"it has the keys {', '.join(sorted(found)[:8])}" if found else "it is empty"
    else:
        what = f"it is a {type(found).__name__}"
    raise RecordError(f"{file}: {what}, and is of no form that is known: {'; '.join(form.FORM for form in FORMS)}")
