"""Whether the Hugging Face hub may be asked. Stages never ask it; what prepares them may, unless the user said no."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

_SAID = "METHODBENCH_HF_HUB_OFFLINE"
"""What the user set, for processes in whose environment the hub is offline by our default."""


def for_stages(environment: Mapping[str, str]) -> dict[str, str]:
    """What `environment` lacks so that stages ask no hub, and what is there of the user's own choice."""
    said = environment.get(_SAID, environment.get("HF_HUB_OFFLINE") or environment.get("TRANSFORMERS_OFFLINE") or "")
    return {_SAID: said, "HF_HUB_OFFLINE": environment.get("HF_HUB_OFFLINE", "1")}


def offline() -> bool:
    """Whether the user said, by ``HF_HUB_OFFLINE`` or ``TRANSFORMERS_OFFLINE``, that no hub is to be asked."""
    return for_stages(os.environ)[_SAID].upper() in ("1", "ON", "YES", "TRUE")


@contextlib.contextmanager
def asked() -> Iterator[None]:
    """The hub may be asked while it lasts, also in a stage's process."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
