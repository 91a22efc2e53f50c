"""How many stages may run side by side, and on which GPUs: no two ever share one."""

from __future__ import annotations

import os
from collections.abc import Sequence

from bench.machine import Machine


class Slots:
    """Room for `jobs` stages. Where stages run on `gpus`, each takes those that it needs for itself."""

    def __init__(self, jobs: int, gpus: Sequence[str] | None = None) -> None:
        self.jobs = self._free = jobs
        self._gpus = None if gpus is None else list(gpus)

    def take(self, gpus: int) -> tuple[str, ...] | None:
        """So many GPUs for a stage, none where it runs on a CPU; None where there is no room now."""
        if not self._free or (self._gpus is not None and len(self._gpus) < gpus):
            return None
        self._free -= 1
        if self._gpus is None:
            return ()
        taken, self._gpus = self._gpus[:gpus], self._gpus[gpus:]
        return tuple(taken)

    def give(self, gpus: Sequence[str]) -> None:
        """A stage ended."""
        self._free += 1
        if self._gpus is not None:
            self._gpus += gpus


def slots(machine: Machine, jobs: int | None) -> Slots:
    """Those of `machine`: as many as asked for, or as GPUs; one on a CPU, whose cores all stages share."""
    if machine.device == "cpu":
        return Slots(jobs or 1)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",")[: machine.gpus] if visible else [str(number) for number in range(machine.gpus)]
    return Slots(jobs or machine.gpus, gpus)
