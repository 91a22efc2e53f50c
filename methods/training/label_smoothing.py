"""Label smoothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Gt, Lt

from bench.evidence import Claim
from bench.method import Modifier

if TYPE_CHECKING:
    import torch

    from bench.evidence import Snapshot
    from bench.loop import Criterion, Training
    from bench.tasks.base import Batch
    from bench.work import Work


@dataclass(frozen=True)
class LabelSmoothing(Modifier):
    """Give `smoothing` of each label's probability to all classes alike.

    The loss is ``(1 − smoothing)`` times the task's plus ``smoothing`` times the cross entropy with the uniform
    distribution, as with torch's ``label_smoothing``. 0.1 is the paper's value:
    https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html
    """

    name = "label_smoothing"
    paper = "https://arxiv.org/abs/1512.00567"
    example = "full + label_smoothing(0.1)"
    across = frozenset({"devices", "layers", "replicas", "shards", "tensors"})

    smoothing: Annotated[float, Gt(0), Lt(1)] = 0.1

    def on_criterion(self, training: Training, criterion: Criterion) -> Criterion:
        """Mix the uniform distribution in."""
        smoothing, task = self.smoothing, training.task

        def smoothed(outputs: Any, batch: Batch) -> torch.Tensor:
            uniform = -task.logits(outputs, batch).float().log_softmax(-1).mean()
            return (1 - smoothing) * criterion(outputs, batch) + smoothing * uniform

        return smoothed

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The loss asks the criterion, whose value on the probe batch is the one computed here from the logits."""
        import torch

        from bench.loop import Training
        from bench.work import evaluating

        assert isinstance(work, Training)
        criterion, asked = work.criterion, []
        work.criterion = lambda outputs, batch: asked.append(batch) or criterion(outputs, batch)  # type: ignore[func-returns-value]
        with torch.no_grad():
            work.loss(work.probe)
        work.criterion = criterion
        yield Claim("the loss is the criterion's", bool(asked), f"asked {len(asked)} times")
        with evaluating(work.model), torch.no_grad():
            outputs = work.outputs(work.probe)
            seen = float(work.criterion(outputs, work.probe))
            hard = float(work.task.criterion(outputs, work.probe))
            logits = work.task.logits(outputs, work.probe).double()
        soft = float((logits.logsumexp(-1, keepdim=True) - logits).mean())
        expected = (1 - self.smoothing) * hard + self.smoothing * soft
        # Equal logits would give equal losses.
        holds = abs(seen - expected) <= 1e-5 * abs(expected) and seen != hard
        yield Claim(
            f"a share of {self.smoothing:g} goes to all classes",
            holds,
            f"{seen:.6g}, by hand {expected:.6g}, unsmoothed {hard:.6g}",
        )
