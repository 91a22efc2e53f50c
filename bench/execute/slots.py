"""How many stages may run side by side, and on which GPUs: no two ever share one."""

from __future__ import annotations

import os
from collections.abc import Sequence

from bench.machine.machine import Machine


class Slots:
    """Room for `jobs` stages. Where stages run on `gpus`, each takes those that it needs for itself."""

    def __init__(self, jobs: int, gpus: Sequence[str] | None = None) -> None:
        self.jobs = self._free = jobs
        self._all = None if gpus is None else tuple(gpus)
        self._busy: set[str] = set()

    def take(self, gpus: int, home: int | None = None) -> tuple[str, ...] | None:
        """So many GPUs for a stage, none where it runs on a CPU; None where there is no room now.

        Stages of one `home` have the same ones each time, from the GPU of that number on, and wait for them: cards of one
        kind differ by some percent, and so would what is compared. Without a home, any that are free.
        """
        if not self._free:
            return None
        if self._all is None:
            taken: tuple[str, ...] = ()
        else:
            wanted = self._free_ones() if home is None else self._ring(home)
            taken = wanted[:gpus]
            if len(taken) < gpus or self._busy & set(taken):
                return None
        self._free -= 1
        self._busy |= set(taken)
        return taken

    def give(self, gpus: Sequence[str]) -> None:
        """A stage ended."""
        self._free += 1
        self._busy -= set(gpus)

    def _free_ones(self) -> tuple[str, ...]:
        return tuple(gpu for gpu in self._all or () if gpu not in self._busy)

    def _ring(self, home: int) -> tuple[str, ...]:
        every = self._all or ()
        start = home % max(1, len(every))
        return every[start:] + every[:start]


def slots(machine: Machine, jobs: int | None) -> Slots:
    """Those of `machine`: as many as asked for, or as GPUs; one on a CPU, whose cores all stages share."""
    if machine.device == "cpu":
        return Slots(jobs or 1)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",")[: machine.gpus] if visible else [str(number) for number in range(machine.gpus)]
    return Slots(jobs or machine.gpus, gpus)
