"""The messages of all commands."""

from __future__ import annotations

import sys
from typing import NoReturn


def say(text: str, error: bool = False) -> None:
    """Print a line; what a terminal would obey is made visible."""
    from bench.machine.output import visible

    print(visible(text), file=sys.stderr if error else sys.stdout, flush=True)


def fail(text: str, status: int = 2) -> NoReturn:
    """Say why the command ends, and end it with `status`."""
    say(f"methodbench: {text}", error=True)
    sys.exit(status)
