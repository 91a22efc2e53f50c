"""What a student is to learn, computed from the outputs of both models by the papers' formulas. For evidence; imports torch."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from bench.models.architecture import stack, unwrapped
from bench.stage.loop import Training
from bench.tasks.base import Batch
from methods.training.objectives._shared.distillation import KEEPING, PROJECTION


@dataclass
class Seen:
    """What the last pass of each model had: each block's output, and the logits that stood in for the teacher's."""

    student: dict[int, torch.Tensor] = field(default_factory=dict)
    teacher: dict[int, torch.Tensor] = field(default_factory=dict)
    logits: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def outputs(self) -> Any:
        """What a task reads these logits off."""
        return SimpleNamespace(**self.logits)


@contextlib.contextmanager
def observed(work: Training, teacher: nn.Module, blocks: bool) -> Iterator[Seen]:
    """Inside, the teacher gives random logits, so that whatever is learned from them is large. Both are looked at."""
    seen = Seen()
    drawn = torch.Generator().manual_seed(work.seed)

    def keep(where: dict[int, torch.Tensor], number: int, module: nn.Module, args: Any, output: Any) -> None:
        where[number] = output[0] if isinstance(output, tuple) else output

    def instead(module: nn.Module, args: Any, output: Any) -> Any:
        for name in work.task.logit_names:
            own = getattr(output, name)
            if name not in seen.logits:
                seen.logits[name] = 2 * torch.randn(own.shape, generator=drawn).to(own)
            output[name] = seen.logits[name]
        return output

    hooks = [teacher.register_forward_hook(instead)]
    if blocks:
        for model, where in ((work.model, seen.student), (teacher, seen.teacher)):
            hooks += [
                block.register_forward_hook(functools.partial(keep, where, number))
                for number, block in enumerate(stack(model))
            ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T² Σ p log(p/q), the mean over rows of logits, in double precision."""
    ours, theirs = (student.double() / temperature).softmax(-1), (teacher.double() / temperature).softmax(-1)
    return temperature**2 * (theirs * (theirs.log() - ours.log())).sum() / len(ours)


def hidden(seen: Seen, student: nn.Module, batch: Batch) -> torch.Tensor:
    """The mean square difference of each block's projected output from the teacher's that it is mapped to, uniformly."""
    weight = getattr(student, PROJECTION).weight
    count, teachers = len(seen.student), len(seen.teacher)
    total: Any = 0.0
    for number, ours in seen.student.items():
        theirs = seen.teacher[round((number + 1) * teachers / count) - 1]
        squares = (ours @ weight.T - theirs[:, -ours.shape[1] :]).double().pow(2).mean(-1)
        total = total + _over_items(squares, batch) / count
    return total  # type: ignore[no-any-return]


def maps(work: Training, teacher: nn.Module, batch: Batch) -> tuple[torch.Tensor, nn.Module]:
    """The divergence of the last blocks' attention maps, of transformers' own attention, and the copy that it is of."""
    found = []
    for model in (work.model, teacher):
        for module in model.modules():
            module.__dict__.pop(KEEPING, None)
        other = copy.deepcopy(model).eval()
        unwrapped(other).set_attn_implementation("eager")
        found.append(other)
    student, taught = found
    ours = student(**batch.inputs, output_attentions=True).attentions[-1].double()
    with torch.no_grad():
        theirs = taught(**batch.inputs, output_attentions=True).attentions[-1].double()
    least = torch.finfo(torch.float64).tiny
    each = torch.where(theirs > 0, theirs * (theirs.clamp(min=least).log() - ours.clamp(min=least).log()), 0.0)
    return _over_items(each.sum(-1).mean(1), batch), student


def _over_items(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The mean over an item's real tokens, then over items by their terms, item by item."""
    means = [row[mask.bool()].mean() for row, mask in zip(values, batch.inputs["attention_mask"], strict=True)]
    return torch.stack([mean * terms for mean, terms in zip(means, batch.terms, strict=True)]).sum() / sum(batch.terms)
