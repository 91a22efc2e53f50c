"""Several models that answer as one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput


class Ensemble(nn.Module):
    """Classifiers whose probabilities are averaged. The logits are the logarithms of those averages."""

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.config: Any = self.members[0].config

    def forward(self, **inputs: Any) -> SequenceClassifierOutput:
        """All members on the same inputs."""
        logs = torch.stack([member(**inputs).logits.float().log_softmax(-1) for member in self.members])
        return SequenceClassifierOutput(logits=logs.logsumexp(0) - torch.tensor(len(logs)).log())
