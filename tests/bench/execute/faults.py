"""Methods that fail in every way there is, for testing what becomes of them."""

import ctypes
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import Literal

from bench.recipe.method import Transform
from bench.stage.evidence import Claim


@dataclass(frozen=True)
class Fault(Transform):
    """Fail in the way that is named."""

    name = "fault"
    paper = "https://example.org"
    example = 'fault("raise")'

    way: Literal["raise", "kill", "segfault", "hang", "memory", "exit", "talk", "late"]

    def apply(self, work):
        print(f"about to {self.way}")
        match self.way:
            case "raise":
                raise ValueError("so it goes\nand on")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "segfault":
                ctypes.string_at(0)
            case "hang":
                time.sleep(600)
            case "memory":
                import torch

                torch.empty(2**50, dtype=torch.uint8)
            case "exit":
                sys.stdout.flush()
                os._exit(3)
            case "talk":
                os.write(1, b"to the user's terminal\n")

    def save(self, model, folder):
        """Die while the model is weighed, if that is the way."""
        if self.way == "late":
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    def evidence(self, before, work):
        """Nothing."""
        return [Claim("it went wrong, or not", True, "")]
