"""``methodbench schema``."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer


class Described(StrEnum):
    """What has a JSON Schema."""

    suite = "suite"
    record = "record"


def schema(what: Annotated[Described, typer.Argument()] = Described.suite) -> None:
    """Print the JSON Schema of a suite file, for editors, or of a line of records."""
    from bench.record import format
    from bench.suite import suite

    described = suite.json_schema() if what is Described.suite else format.json_schema()
    print(json.dumps(described, indent=2))
