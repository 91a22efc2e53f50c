"""What methods built on bitsandbytes share."""

from __future__ import annotations

import logging
from types import ModuleType


def imported() -> ModuleType:
    """The package, without what it says of a kernel that it could fetch from the hub and does not need."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    import bitsandbytes

    return bitsandbytes  # type: ignore[no-any-return]
