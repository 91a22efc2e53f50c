"""Contrastive losses beside the task's."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Gt

from bench.plan.context import PlanContext
from bench.recipe.declarations import Trait
from bench.recipe.method import Modifier
from bench.stage.evidence import Claim
from methods import _classes, _dropout
from methods._models import masked_items

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import ComputeLoss, Training
    from bench.tasks.base import Batch


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

    @property
    def refuses_beside(self) -> tuple[tuple[Trait, str], ...]:
        """What keeps it from the whole batch, from the body or from the labels that it compares."""
        always: tuple[tuple[Trait, str], ...] = (
            (
                "micro_batches",
                "it compares each item with the whole batch, and {other} shows it micro-batches alone, which is another "
                "loss; leave out {other}, and save memory with gradient_checkpointing",
            ),
            (
                "compiles",
                "it hooks into the body anew in every pass, which compiled code is not known to follow; leave out {other}",
            ),
            (
                "frozen_body",
                "it teaches the body, which stays as it is where the {other} trains alone; train more, as with full or lora",
            ),
        )
        if self.loss == "simcse":
            return always
        own = "supcon compares labels of items, and {other} puts its own in their place; put it on the training after"
        return (*always, ("own_items", own))

    def problems(self, context: PlanContext) -> Iterator[str]:
        """Every item is compared with every other of the batch, so the loss must see the whole batch."""
        yield from _classes.one_text(context)
        if context.batch_size < 2:
            yield "a batch of 1 has nothing to compare with; raise budget.batch_size"
        elif context.batch_size < 3 and self.loss == "supcon":
            yield "of 2 items the one is always the other's nearest, so nothing is learned; raise budget.batch_size"
        if self.loss == "supcon" and not (context.task.labels_texts and context.task.predicts_classes):
            yield f'supcon compares classes of texts, and those of a {context.task.kind} task have none; use contrastive("simcse")'
        if self.loss == "simcse":
            yield from _dropout.problems(context, head=False)
        if context.structure.encoder_decoder and not context.task.new_head:
            yield f"a {context.model} model has a vector of a text from its encoder and others from its decoder; leave it out"
        yield from masked_items(context)

    @property
    def _temperature(self) -> float:
        return self.temperature or {"supcon": 0.1, "simcse": 0.05}[self.loss]

    def wrap_loss(self, training: Training, compute: ComputeLoss) -> ComputeLoss:
        """Add the loss of the states that the body gives on the way."""
        import torch

        training.state[self.name] = compute

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

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """Of known states in the body's place, what is added to the loss and its gradient are a plain computation's."""
        import torch

        from bench.models.modes import evaluating

        probe = work.probe
        if self.loss == "supcon" and len(set(probe.labels.tolist())) == len(probe.labels):
            # All of other classes: nothing would be added, and nothing shown.
            probe = dataclasses.replace(probe, labels=probe.labels[:1].expand_as(probe.labels))
        half = work.compute_dtype != torch.float32
        without: ComputeLoss = work.state.get(self.name, work.loss)
        with torch.random.fork_rng(), torch.no_grad(), _states(work.model) as trained:
            work.loss(probe)
        passes = 2 if self.loss == "simcse" else 1
        drawn = torch.Generator().manual_seed(work.seed)
        given = [
            torch.randn(trained[0].shape, generator=drawn).to(trained[0].device, trained[0].dtype).requires_grad_()
            for _ in range(passes)
        ]
        values, slopes = [], []
        with evaluating(work.model):
            for compute in (work.loss, without):
                with _instead(work.model, given), torch.autocast(work.device.type, work.compute_dtype, enabled=half):
                    value = compute(probe)
                slope = torch.autograd.grad(value, given, allow_unused=True)
                values.append(float(value.detach()))
                slopes.append([g if g is not None else p.detach() * 0 for g, p in zip(slope, given, strict=True)])
        plainly = self.weight * self._plain(given, probe)
        wanted = torch.autograd.grad(plainly, given)
        seen, expected = values[0] - values[1], float(plainly.detach())
        rounding = 1e-5 if not half else 1e-2
        yield Claim(
            f"{self.weight:g} times the loss of {self.loss} is added, at a temperature of {self._usual:g}",
            abs(seen - expected) <= 1e-3 * abs(expected) + rounding * max(1.0, abs(values[1])),
            f"{seen:.5g} against {expected:.5g} for random states",
        )
        errors = []
        for ours, theirs, formula in zip(*slopes, wanted, strict=True):
            rest = rounding * float(theirs.float().norm())
            errors.append(float((ours - theirs - formula).float().norm()) / (float(formula.float().norm()) + rest))
        limit = 1e-3 if not half else 5e-2
        yield Claim(
            "and its gradient, at the states of each pass",
            max(errors) <= limit,
            "relative differences " + ", ".join(f"{error:.1e}" for error in errors),
        )
        if self.loss == "simcse":
            differ = len(trained) > 1 and not torch.equal(trained[0], trained[1])
            yield Claim("the two passes differ by dropout", differ, "different states" if differ else "the same states")
            yield self._learns(work)

    @property
    def _usual(self) -> float:
        """The temperature that was given, or the paper's."""
        if self.temperature is not None:
            return self.temperature
        return 0.1 if self.loss == "supcon" else 0.05

    def _learns(self, work: Training) -> Claim:
        """That the gradient goes back through both passes."""
        import torch

        flows: list[bool] = []
        with torch.random.fork_rng(), _states(work.model) as states:
            loss = work.loss(work.probe)
        for state in states:
            (slope,) = (
                torch.autograd.grad(loss, state, retain_graph=True, allow_unused=True)
                if state.requires_grad
                else (None,)
            )
            flows.append(slope is not None and bool(slope.any()))
        return Claim(
            "gradients flow through both passes", len(flows) > 1 and all(flows), f"{sum(flows)} of {len(flows)}"
        )

    def _plain(self, states: list[torch.Tensor], batch: Batch) -> torch.Tensor:
        """The loss of one or two passes' states, item by item in double precision."""
        import torch

        length = batch.inputs["attention_mask"].shape[1]
        views = []
        for of_pass in states:
            means = [
                state[-length:][:real].double().sum(0) / real
                for state, real in zip(of_pass, batch.lengths, strict=True)
            ]
            views.append([mean / mean.square().sum().sqrt() for mean in means])
        first, second = views[0], views[-1]
        labels = batch.labels.tolist()
        total = torch.zeros((), dtype=torch.float64, device=states[0].device)
        for anchor, unit in enumerate(first):
            itself = self.loss == "simcse"
            others = [other for other in range(len(first)) if itself or other != anchor]
            positives = [anchor] if itself else [other for other in others if labels[other] == labels[anchor]]
            weights = {other: ((unit * second[other]).sum() / self._usual).exp() for other in others}
            below = torch.stack([*weights.values()]).sum()
            for positive in positives:
                total = total - (weights[positive] / below).log() / len(positives)
        return total / len(first)


@contextlib.contextmanager
def _instead(model: nn.Module, given: list[torch.Tensor]) -> Iterator[None]:
    """Inside, the body's last hidden states are those `given`, of one pass after the other."""
    from bench.models.architecture import body

    passes = itertools.cycle(given)

    def replace(module: nn.Module, args: Any, outputs: Any) -> Any:
        state = next(passes)
        if isinstance(outputs, tuple):
            return (state, *outputs[1:])
        outputs = copy.copy(outputs)
        outputs["last_hidden_state"] = state
        return outputs

    handle = body(model).register_forward_hook(replace, prepend=True)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _states(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """The last hidden state of every pass inside.

    Not by ``output_hidden_states``: transformers then leaves hooks on the model that cannot be pickled.
    """
    from bench.models.architecture import body

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
