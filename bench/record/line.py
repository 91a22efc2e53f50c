"""A record as a line of JSON, and back."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from bench.machine.output import visible
from bench.record.migration import migrated

FILE = "records.jsonl"
"""What the file of a results folder's records is called."""


def parsed(line: bytes) -> Any:
    """What `line` holds, in the newest schema, and as it may be shown.

    Raises:
        ValueError: it is not JSON; the message ends the sentence "this line is".
    """
    try:
        record = migrated(json.loads(line.decode()))
        if _NO_SIGN.search(line):
            record = _visible(record)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not whole JSON, as a crash leaves a line ({error})") from None
    training = record.get("training") if isinstance(record, dict) and record.get("kind") == "node" else None
    if isinstance(training, dict) and isinstance(losses := training.get("losses"), list):
        training["losses"] = [math.nan if loss is None else loss for loss in losses]
    return record


_NO_SIGN = re.compile(
    rb"\\u(?:00[0189]|007f|d[89a-f]|20(?:2[a-e]|6[6-9]))|\x7f|\xc2[\x80-\x9f]|\xe2(?:\x80[\xaa-\xae]|\x81[\xa6-\xa9])",
    re.IGNORECASE,
)
"""Where JSON may hold what is no sign to be read: control characters, halves of characters, turns of direction."""


def _visible(value: Any) -> Any:
    """`value` with all its texts as they may be shown: whatever wrote them may have had colours, or worse, in mind."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(key): _visible(inner) for key, inner in value.items()}
    return [_visible(inner) for inner in value] if isinstance(value, list) else value


def encoded(record: Mapping[str, Any]) -> bytes:
    """`record` as one line. What is not finite is null."""
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
