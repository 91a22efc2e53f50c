"""Records of older schemas, as the newest has them. The history is in :data:`bench.record.schema.SCHEMA`."""

from __future__ import annotations

from typing import Any


def migrated(record: Any) -> Any:
    """`record`, which was just parsed and may be damaged, in the newest schema; one of a newer schema as it is."""
    if isinstance(record, dict) and record.get("schema") == 1:
        _to_2(record)
        record["schema"] = 2
    return record


def _to_2(record: dict[str, Any]) -> None:
    _rename(record, "reference", "baseline")
    _rename(record, "alone", "single_process")
    latency = record.get("latency")
    for entry in latency if isinstance(latency, list) else ():
        if isinstance(entry, dict):
            _rename(entry, "reference", "uncompressed")


def _rename(table: dict[str, Any], old: str, new: str) -> None:
    if old in table:
        table[new] = table.pop(old)
