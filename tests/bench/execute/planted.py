"""A method that makes a training slower by a known time, for testing turns."""

import os
import time
from dataclasses import dataclass

from bench.recipe.method import Modifier


@dataclass(frozen=True)
class Planted(Modifier):
    """Each update takes so many `seconds` longer, and one ends the process, of the step `dies`."""

    name = "planted"
    paper = "https://example.org"
    example = "planted(0.1)"

    seconds: float = 0.0
    dies: int = -1

    def wrap_update(self, training, update):
        """Sleep, or die."""

        def slower():
            update()
            time.sleep(self.seconds)
            if training.step == self.dies:
                os._exit(7)

        return slower

    def evidence(self, before, work):
        """Nothing."""
        return []
