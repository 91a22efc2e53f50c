"""Contrastive losses beside the task's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Gt

from bench.evidence import Claim
from bench.method import Modifier, Place
from methods import _dropout

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.evidence import Snapshot
    from bench.loop import ComputeLoss, Training
    from bench.tasks.base import Batch
    from bench.work import Work


@dataclass(frozen=True)
class Contrastive(Modifier):
    """Add ``weight`` times a contrastive loss, on the mean of the last hidden state over an item's real tokens.

    - ``"supcon"`` (https://arxiv.org/abs/2004.11362): items of one label attract each other and all others repel, by
      the paper's L_out. Every item is an anchor, seen once; one that is alone with its label in the batch adds 0.
    - ``"simcse"`` (https://arxiv.org/abs/2104.08821, unsupervised): an item attracts itself under other dropout, which
      takes a second forward pass, and the batch's other items repel.

    Similarities are cosines over ``temperature``: 0.1 for supcon and 0.05 for simcse, their papers' values. Neither
    paper adds its loss to a task's; the weight of 0.1 is the one that SimCSE gives an auxiliary loss.
    """

    name = "contrastive"
    paper = "https://arxiv.org/abs/2004.11362"
    example = 'full + contrastive("supcon")'

    loss: Literal["supcon", "simcse"]
    weight: Annotated[float, Gt(0)] = 0.1
    temperature: Annotated[float, Gt(0)] | None = None

    def problems(self, place: Place) -> Iterator[str]:
        """Every item is compared with every other of the batch, so the loss must see the whole batch."""
        if any(modifier.name == "accumulate" for modifier in place.stage.modifiers):
            yield (
                "it compares each item with the whole batch, and accumulate shows it micro-batches alone, which is "
                "another loss; leave out accumulate, and save memory with checkpointing"
            )
        if any(modifier.name == "compile" for modifier in place.stage.modifiers):
            yield "it hooks into the body anew in every pass, which compiled code is not known to follow; leave out compile"
        if place.stage.base.name == "head":
            yield "it teaches the body, which stays as it is where the head trains alone; train more, as with full or lora"
        if self.loss == "supcon" and place.stage.base.name == "pretrain":
            yield "supcon compares labels of items, and pretrain puts its own in their place; put it on the training after"
        if place.batch_size < 2:
            yield "a batch of 1 has nothing to compare with; raise budget.batch_size"
        if self.loss == "supcon" and place.task != "classification":
            yield f'supcon compares labels of items, and a {place.task} task has none; use contrastive("simcse")'
        if self.loss == "simcse":
            yield from _dropout.problems(place, head=False)

    @property
    def _temperature(self) -> float:
        return self.temperature or {"supcon": 0.1, "simcse": 0.05}[self.loss]

    def on_loss(self, training: Training, compute: ComputeLoss) -> ComputeLoss:
        """Add the loss of the states that the body gives on the way."""
        import torch

        training.notes[self.name] = compute

        def added(batch: Batch) -> torch.Tensor:
            with _states(training.model) as states:
                loss = compute(batch)
                first = pooled(states[-1], batch)
                if self.loss == "simcse":
                    training.model(**batch.inputs)
                    second = pooled(states[-1], batch)
            # Half precision is too coarse for cosines over such temperatures.
            with torch.autocast(training.device.type, enabled=False):
                if self.loss == "simcse":
                    return loss + self.weight * simcse(first, second, self._temperature)
                return loss + self.weight * supcon(first, batch.labels, self._temperature)

        return added

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The loss is higher than without it by what a plain computation on the body's outputs gives."""
        import torch

        from bench.loop import Training
        from bench.work import evaluating

        assert isinstance(work, Training)
        half = work.compute_dtype != torch.float32
        without: ComputeLoss = work.notes.get(self.name, work.loss)
        with _states(work.model) as trained:
            work.loss(work.probe)
        with torch.no_grad(), evaluating(work.model), _states(work.model) as states:
            seen = float(work.loss(work.probe))
            with torch.autocast(work.device.type, work.compute_dtype, enabled=half):
                seen -= float(without(work.probe))
        expected = self.weight * self._plain(states[0], work.probe)
        yield Claim(
            f"{self.weight:g} times the loss of {self.loss} is added",
            abs(seen - expected) <= 1e-3 * abs(expected) + 1e-4,
            f"{seen:.5g} against {expected:.5g}",
        )
        learns = trained[0].requires_grad
        yield Claim("gradients flow through what is compared", learns, "they do" if learns else "they do not")
        if self.loss == "simcse":
            differ = len(trained) > 1 and not torch.equal(trained[0], trained[1])
            yield Claim("the two passes differ by dropout", differ, "different states" if differ else "the same states")

    def _plain(self, states: torch.Tensor, batch: Batch) -> float:
        """The loss in evaluation mode, where both passes are one, item by item in double precision."""
        import torch

        length = batch.inputs["attention_mask"].shape[1]
        vectors = [state[-length:][:real].double().mean(0) for state, real in zip(states, batch.lengths, strict=True)]
        units = torch.stack([vector / vector.norm() for vector in vectors]).cpu()
        weights = (units @ units.T / self._temperature).exp()
        labels = batch.labels.tolist()
        total = 0.0
        for anchor in range(len(units)):
            others = [other for other in range(len(units)) if self.loss == "simcse" or other != anchor]
            positives = [anchor] if self.loss == "simcse" else [o for o in others if labels[o] == labels[anchor]]
            below = sum(float(weights[anchor, other]) for other in others)
            logs = [float((weights[anchor, positive] / below).log()) for positive in positives]
            total -= sum(logs) / max(1, len(logs))
        return total / len(units)


@contextlib.contextmanager
def _states(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """The last hidden state of every pass inside.

    Not by ``output_hidden_states``: transformers then leaves hooks on the model that cannot be pickled.
    """
    from bench.architecture import body

    states: list[torch.Tensor] = []
    handle = body(model).register_forward_hook(lambda module, inputs, outputs: states.append(outputs[0]))
    try:
        yield states
    finally:
        handle.remove()


def pooled(states: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The mean over each item's real tokens, a unit vector, in float32. A prompt's virtual tokens stand before them."""
    import torch

    real = batch.inputs["attention_mask"][..., None]
    summed = (states[:, -real.shape[1] :].float() * real).sum(1)
    return torch.nn.functional.normalize(summed, dim=-1)  # a mean points where its sum does


def supcon(units: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """Of each anchor, minus the mean log-probability of its positives among all others; the mean over anchors."""
    import torch

    itself = torch.eye(len(units), dtype=torch.bool, device=units.device)
    logits = (units @ units.T / temperature).masked_fill(itself, -torch.inf)
    positive = (labels[:, None] == labels[None]) & ~itself
    logs = logits.log_softmax(-1).masked_fill(~positive, 0)
    return -(logs.sum(-1) / positive.sum(-1).clamp(min=1)).mean()


def simcse(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    """Of each item, minus the log-probability of its own second view among all items' second views; the mean."""
    import torch

    own = torch.arange(len(first), device=first.device)
    return torch.nn.functional.cross_entropy(first @ second.T / temperature, own)
