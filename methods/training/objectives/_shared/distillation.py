"""What distillation compares beside logits: a student's hidden states and attention maps with its teacher's."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bench.models.architecture import attention, config, stack, unwrapped
from bench.models.modes import evaluating
from bench.stage.loop import Training
from bench.tasks.base import Batch

KEEPING = "methodbench_keeping"
"""transformers' name for :func:`_keeping`."""

PROJECTION = "distill_projection"
"""Where the student has its projection while it trains."""


def spread(count: int, kept: int) -> list[int]:
    """Which `kept` of `count` blocks a student starts from: evenly spread, first and last among them.

    For 6 of 12 these are 0, 2, 4, 7, 9 and 11, which DistilBERT's own code takes.
    """
    return [round(number * (count - 1) / max(1, kept - 1)) for number in range(kept)]


def matched(count: int, teachers: int) -> list[int]:
    """The teacher's block whose output each of the student's is compared with: TinyBERT's uniform mapping."""
    return [round((number + 1) * teachers / count) - 1 for number in range(count)]


def keep_blocks(model: nn.Module, kept: list[int]) -> None:
    """Leave these blocks in `model` and count them anew."""
    whole = stack(model)
    chosen = [whole[number] for number in kept]
    del whole[:]
    whole.extend(chosen)
    for number, block in enumerate(whole):
        module: Any
        for module in block.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = number
    config = unwrapped(model).config
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[number] for number in kept]


def per_item(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The mean of ``[items, tokens]`` over each item's real tokens, then over items, each by its terms.

    So parts of a batch come together as the criterion's do.
    """
    real = batch.inputs["attention_mask"].to(values.dtype)
    means = (values * real).sum(1) / real.sum(1)
    terms = torch.tensor(batch.terms, dtype=values.dtype, device=values.device)
    return (means * terms).sum() / terms.sum()


def soft_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T²·KL(teacher/T ‖ student/T), the mean over rows of logits."""
    ours, theirs = ((logits.float() / temperature).log_softmax(-1) for logits in (student, teacher))
    return temperature**2 * nn.functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)


class Hidden:
    """The mean square difference between projected outputs of the student's blocks and the teacher's that they match.

    Here and in :class:`Attention`, ``inside`` is what makes the teacher's side another when it is changed.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        ours, theirs = stack(student), stack(teacher)
        self._student = student
        self._seen: dict[tuple[str, int], torch.Tensor] = {}
        narrow, wide = (config(model).hidden_size for model in (student, teacher))
        projection = nn.Linear(narrow, wide, bias=False, device=next(student.parameters()).device)
        nn.init.eye_(projection.weight)
        student.add_module(PROJECTION, projection)
        self._pairs = list(enumerate(matched(len(ours), len(theirs))))
        self.inside = theirs[self._pairs[-1][1]]
        self._hooks = [
            module.register_forward_hook(functools.partial(self._keep, key))
            for own, other in self._pairs
            for module, key in ((ours[own], ("student", own)), (theirs[other], ("teacher", other)))
        ]

    def loss(self, batch: Batch) -> torch.Tensor:
        """Of the last forward pass of both."""
        project = getattr(self._student, PROJECTION)
        losses = []
        for own, other in self._pairs:
            ours, theirs = self._seen["student", own], self._seen["teacher", other]
            # A prompt's virtual tokens stand before those of the batch.
            difference = project(ours).float() - theirs[:, -ours.shape[1] :].float()
            losses.append(per_item(difference.square().mean(-1), batch))
        self._seen.clear()
        return torch.stack(losses).mean()

    def remove(self) -> None:
        """Take off what was only for training."""
        for hook in self._hooks:
            hook.remove()
        delattr(self._student, PROJECTION)

    def _keep(self, key: tuple[str, int], module: nn.Module, args: Any, output: Any) -> None:
        self._seen[key] = output[0] if isinstance(output, tuple) else output


class Attention:
    """KL(teacher ‖ student) between the attention maps of both models' last blocks, head by head."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        ours, theirs = attention(student)[-1], attention(teacher)[-1]
        if ours.heads != theirs.heads:
            raise ValueError(f"the student's last block has {ours.heads} heads and the teacher's {theirs.heads}")
        self._modules: tuple[Any, Any] = (ours.module, theirs.module)
        self.inside = theirs.query
        self._student = unwrapped(student)
        self._before = self._student.config._attn_implementation
        _register()
        for model in (self._student, unwrapped(teacher)):
            model.set_attn_implementation(KEEPING)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Of the last forward pass of both."""
        ours, theirs = (module.__dict__.pop(KEEPING) for module in self._modules)
        return per_item((theirs.exp() * (theirs - ours)).sum(-1).mean(1), batch)

    def remove(self) -> None:
        """Go back to the student's own attention."""
        self._student.set_attn_implementation(self._before)
        for module in self._student.modules():
            module.__dict__.pop(KEEPING, None)


def _register() -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(KEEPING, _keeping)
    ALL_MASK_ATTENTION_FUNCTIONS.register(KEEPING, eager_mask)


def _keeping(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Eager attention that leaves its map's logarithm, as it is before dropout, in the module."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = scores + attention_mask
    logs = scores.float().log_softmax(-1)
    module.__dict__[KEEPING] = logs
    weights = nn.functional.dropout(logs.exp(), dropout, module.training).to(value.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


@dataclass
class Teaching:
    """A teacher. ``match`` is what else than its logits the student learns; ``autocast`` is whether it may take part."""

    teacher: nn.Module
    autocast: bool
    match: Hidden | Attention | None = None

    def outputs(self, batch: Batch) -> Any:
        """The teacher's answer."""
        plain = contextlib.nullcontext() if self.autocast else torch.autocast(batch.labels.device.type, enabled=False)
        with torch.no_grad(), plain:
            return self.teacher(**batch.inputs)


@contextlib.contextmanager
def answering_otherwise(teacher: nn.Module, names: Sequence[str], inside: nn.Module | None = None) -> Iterator[None]:
    """While this lasts the teacher is sure of what it holds least likely; or it is changed `inside`, its logits kept.

    `names` are what its outputs call logits.
    """
    own: list[dict[str, torch.Tensor]] = []
    changing = [False]

    def before(module: nn.Module, args: Any, inputs: dict[str, Any]) -> None:
        outputs = module.forward(*args, **inputs)
        own[:] = [{name: getattr(outputs, name) for name in names}]
        changing[0] = True

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        changing[0] = False
        for name, logits in own[0].items():
            least = nn.functional.one_hot(logits.argmin(-1), logits.shape[-1]).to(logits.dtype)
            output[name] = logits if inside else 10 * least
        return output

    def change(module: nn.Module, args: Any, output: Any) -> Any:
        if not changing[0]:
            return output
        return (-output[0], *output[1:]) if isinstance(output, tuple) else -output

    hooks = [teacher.register_forward_pre_hook(before, with_kwargs=True), teacher.register_forward_hook(after)]
    if inside:
        hooks.append(inside.register_forward_hook(change, prepend=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def gradient(training: Training) -> torch.Tensor:
    """The probe batch's gradient without dropout, as one vector."""
    training.optimizer.zero_grad(set_to_none=True)
    with torch.random.fork_rng(), evaluating(training.model):
        torch.manual_seed(training.seed)
        training.gradients(training.probe, 1.0)
    flat = [parameter.grad.float().flatten() for parameter in training.parameters if parameter.grad is not None]
    training.optimizer.zero_grad(set_to_none=True)
    return torch.cat(flat)


def nearest(block: nn.Module, others: nn.ModuleList) -> list[int]:
    """Which of `others` have the weights with the highest cosine to those of `block`: several where they are equal."""
    vectors = [nn.utils.parameters_to_vector(each.parameters()).detach() for each in (block, *others)]
    ours, *theirs = vectors
    cosines = [
        float(torch.cosine_similarity(ours, other, 0)) if other.shape == ours.shape else -1.0 for other in theirs
    ]
    return [number for number, cosine in enumerate(cosines) if cosine == max(cosines)]


def left(student: nn.Module) -> list[str]:
    """What is still in a student of what was only for training."""
    found = [name for name, _ in student.named_modules() if PROJECTION in name]
    found += [f"a hook on block {number}" for number, block in enumerate(stack(student)) if block._forward_hooks]
    return found + ["its attention"] * (unwrapped(student).config._attn_implementation == KEEPING)
