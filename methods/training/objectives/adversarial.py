"""Adversarial training on token embeddings."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from bench.plan.context import PlanContext
from bench.recipe.method import Modifier
from bench.stage.evidence import Claim
from methods import _classes, _embeddings
from methods._models import masked_items, tokens

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import ComputeGradients, Training
    from bench.tasks.base import Batch

    Differentiate = Callable[[float], torch.Tensor]
    """A pass forward and backward; the loss counts by the factor."""


@dataclass(frozen=True)
class Adversarial(Modifier):
    """Train on token embeddings that are moved, example by example, to where the loss is higher.

    A perturbation is added to the embedding layer's output at the real tokens of an example. Its L2 norm, over all of
    them together, is at most ``epsilon``. No weight is touched. The attack is one of

    - ``"fgm"`` (https://arxiv.org/abs/1605.07725): one step of length epsilon along the gradient; the loss is that of
      the clean batch plus that of the perturbed one. Two passes. The paper normalizes its embeddings first; here they
      stay as they were pretrained, as in common implementations, whose epsilon of 1 is the default.
    - ``"pgd"`` (https://arxiv.org/abs/1706.06083): from a random start, ``steps`` steps of length ``alpha``, each
      projected back to norm epsilon; the loss is that of where it ends, with no clean part. steps + 1 passes.
    - ``"freelb"`` (https://arxiv.org/abs/1909.11764): such steps too, but the loss is the mean over all points on the
      way, whose gradients are there anyway. ``steps`` passes, with the same dropout for all of a batch.

    For both of these epsilon is 0.6 and alpha 0.1, what FreeLB's authors have for SST-2, and for the PGD that they
    compare it with (https://github.com/zhuchen03/FreeLB); over their tasks epsilon is 0.15 to 0.62. ``steps`` is 3, of
    their 2 and 3. A random start is FreeLB's: uniform in ±epsilon/√(tokens · width). In evaluation mode, where nothing
    is random, the start is 0.
    """

    name = "adversarial"
    paper = "https://arxiv.org/abs/1909.11764"
    example = 'full + adversarial("fgm")'

    refuses_beside = (
        (
            "compiles",
            "it hooks into the embeddings anew in every pass, which compiled code is not known to follow; leave out {other}",
        ),
    )

    attack: Literal["fgm", "pgd", "freelb"]
    epsilon: Annotated[float, Gt(0)] | None = None
    steps: Annotated[int, Ge(2), Le(1000)] | None = None
    alpha: Annotated[float, Gt(0)] | None = None

    def problems(self, context: PlanContext) -> Iterator[str]:
        """The fast gradient method has nothing to set but epsilon."""
        yield from tokens(context)
        yield from _classes.one_text(context)
        if self.attack == "fgm" and (self.steps or self.alpha):
            yield "fgm makes one step of length epsilon; leave out steps and alpha, or take pgd or freelb"
        if context.structure.encoder_decoder and not context.task.new_head:
            yield f"a {context.model} model embeds a text for its encoder and another for its decoder, and one is attacked; leave it out"
        yield from masked_items(context)

    @property
    def _steps(self) -> int:
        return 1 if self.attack == "fgm" else self.steps or 3

    @property
    def _epsilon(self) -> float:
        return self.epsilon or (1.0 if self.attack == "fgm" else 0.6)

    @property
    def _alpha(self) -> float:
        return self._epsilon if self.attack == "fgm" else self.alpha or 0.1

    def wrap_gradients(self, training: Training, compute: ComputeGradients) -> ComputeGradients:
        """Perturb, by the gradients of earlier passes."""
        from bench.models.architecture import embeddings

        attack = {"fgm": self._fgm, "pgd": self._pgd, "freelb": self._freelb}[self.attack]

        def attacked(batch: Batch, scale: float | torch.Tensor) -> torch.Tensor:
            layer: Any = embeddings(training.model)
            reach = self._epsilon if layer.training and self.attack != "fgm" else 0.0
            delta = _Perturbation(batch.inputs["attention_mask"], layer.embedding_dim, reach)
            with _embeddings.changed(training.model, delta):
                return attack(training, lambda factor: compute(batch, scale * factor if factor != 1 else scale), delta)

        return attacked

    def _fgm(self, training: Training, differentiate: Differentiate, delta: _Perturbation) -> torch.Tensor:
        clean = differentiate(1)
        delta.ascend(self._epsilon, self._epsilon, last=True)
        return clean + differentiate(1)

    def _pgd(self, training: Training, differentiate: Differentiate, delta: _Perturbation) -> torch.Tensor:
        with _frozen(training.parameters):  # on the way, only the perturbation's gradient is wanted
            for step in range(self._steps):
                differentiate(1)
                delta.ascend(self._alpha, self._epsilon, last=step == self._steps - 1)
        return differentiate(1)

    def _freelb(self, training: Training, differentiate: Differentiate, delta: _Perturbation) -> torch.Tensor:
        random = _generator(training.device)
        begin = random.get_state()
        loss = differentiate(1 / self._steps)
        for step in range(1, self._steps):
            delta.ascend(self._alpha, self._epsilon, last=step == self._steps - 1)
            random.set_state(begin)
            loss = loss + differentiate(1 / self._steps)
        return loss / self._steps

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """A step goes by each example's gradients as the attack says, adds up the gradient that it says, and leaves no trace."""
        import torch

        from bench.models.architecture import embeddings
        from bench.models.modes import evaluating

        probe = work.probe
        layer = embeddings(work.model)
        with evaluating(work.model):
            with torch.no_grad(), _embeddings.observed(work.model) as plain:
                work.loss(probe)
            clean = plain[0][1]
            with _embeddings.observed(work.model) as seen:
                loss = float(work.gradients(probe, 1.0))
            gradient = [None if p.grad is None else p.grad.clone() for p in work.parameters]
            work.optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                traceless = torch.equal(layer(plain[0][0]), clean)
        steps, epsilon, alpha = self._values()
        passes = steps + (self.attack != "freelb")
        points = _points(seen, passes * len(plain), len(plain), probe.samples)
        yield Claim(
            f"a step passes each example {passes} times",
            len(points) == passes,
            f"{len(seen)} passes of {len(plain)} without perturbation",
        )
        yield Claim("afterwards the embeddings are as before", traceless, "the same" if traceless else "others")
        if len(points) < 2:
            return
        moves = [point.double() - clean.double() for point in points]
        real = probe.inputs["attention_mask"].bool()
        exact = work.compute_dtype == clean.dtype == torch.float32
        losses, at_points, at_weights = [], [], []
        with evaluating(work.model):
            for move in moves:
                value, here, weights = _slopes(work, move.to(clean.dtype))
                losses.append(value)
                at_points.append(here.double() * real[..., None])
                at_weights.append(weights)
        worst = 0.0
        expected = torch.zeros_like(moves[0])
        for move, following, slope in zip(moves, moves[1:], at_points[:-1], strict=False):
            length = slope.flatten(1).norm(dim=1)[:, None, None]
            expected = move + (alpha * slope / length).nan_to_num(0, 0, 0)
            longest = expected.flatten(1).norm(dim=1)[:, None, None]
            expected = torch.where(longest > epsilon, expected * epsilon / longest, expected)
            errors = (following - expected).flatten(1).norm(dim=1) / alpha
            worst = max(worst, float(errors.max()))
        lengths = [float(move.flatten(1).norm(dim=1).max()) for move in moves]
        yield Claim(
            f"each step is {alpha:g} up the gradient of each example, and back to a length of {epsilon:g}",
            worst < (2e-2 if exact else 0.3) and max(lengths) <= epsilon * (1 + (1e-3 if exact else 3e-2)),
            f"off by {worst:.1e} of a step at most, the longest is {max(lengths):.4g}",
        )
        padding = max(float(move[~real].abs().sum()) for move in moves)
        yield Claim("padding is not perturbed", padding == 0, f"{padding:g}")
        share = {"fgm": [1.0] * passes, "pgd": [0.0] * (passes - 1) + [1.0], "freelb": [1 / passes] * passes}[
            self.attack
        ]
        if not work.beside:  # models that train beside this one add to the loss and have embeddings of their own
            yield from self._added_up(
                loss, gradient, share, losses, at_weights, exact, scaled=work.compute_dtype == torch.float16
            )
        yield from self._random(work, epsilon, passes * len(plain), len(plain))

    def _values(self) -> tuple[int, float, float]:
        """Steps, epsilon and alpha: those given, or those of the papers and their authors' code."""
        if self.attack == "fgm":
            return 1, self.epsilon or 1.0, self.epsilon or 1.0
        return self.steps or 3, self.epsilon or 0.6, self.alpha or 0.1

    def _added_up(
        self,
        loss: float,
        gradient: list[torch.Tensor | None],
        share: list[float],
        losses: list[float],
        at_weights: list[list[torch.Tensor | None]],
        exact: bool,
        *,
        scaled: bool,
    ) -> Iterator[Claim]:
        """The loss and the gradient of a step against those of its points, each with its share."""
        wanted = sum(part * value for part, value in zip(share, losses, strict=True))
        limit = 1e-3 if exact else 5e-2
        yield Claim(
            f"the loss that it tells is the {'sum' if self.attack == 'fgm' else 'mean'} of those that count",
            abs(loss - wanted) <= limit * max(1.0, abs(wanted)),
            f"{loss:.5g} against {wanted:.5g}",
        )
        pairs = []
        for found, *parts in zip(gradient, *at_weights, strict=True):
            there = [part * slope for part, slope in zip(share, parts, strict=True) if slope is not None]
            if found is None and not there:
                continue
            expected = (sum(there[1:], there[0]) if there else found * 0).double()
            pairs.append((expected * 0 if found is None else found.double(), expected))
        size = sum(float(expected.square().sum()) for _, expected in pairs)
        # In fp16 gradients are scaled up by a power of two until the optimizer's step.
        along = sum(float((found * expected).sum()) for found, expected in pairs)
        factor = 2.0 ** round(math.log2(along / size)) if scaled and along > 0 and size else 1.0
        error = sum(float((found / factor - expected).square().sum()) for found, expected in pairs)
        relative = (error / size) ** 0.5 if size else float("inf")
        yield Claim(
            f"the gradient is that of {len([part for part in share if part])} of {len(share)} points, by their shares",
            relative <= limit,
            f"relative difference {relative:.1e}, at most {limit:g}",
        )

    def _random(self, work: Training, epsilon: float, passes: int, each: int) -> Iterator[Claim]:
        """In training: where the first pass begins, and for freelb what the passes of one batch drop."""
        import torch

        from bench.models.architecture import embeddings

        # What else changes embeddings in training, as noise does, changes them here too.
        with torch.random.fork_rng(), torch.no_grad(), _embeddings.observed(work.model) as alone:
            torch.manual_seed(work.seed)
            work.loss(work.probe)
        states: list[torch.Tensor] = []
        hook = embeddings(work.model).register_forward_hook(
            lambda module, args, output: states.append(_generator(work.device).get_state())
        )
        with torch.random.fork_rng(), _embeddings.observed(work.model) as seen:
            torch.manual_seed(work.seed)
            work.gradients(work.probe, 1.0)
        hook.remove()
        work.optimizer.zero_grad(set_to_none=True)
        ids, first = seen[0]
        with torch.no_grad():
            clean = embeddings(work.model)(ids)
        # Accumulated, a pass has a part of the items.
        without = alone[0][1][: len(ids)] if self.attack == "fgm" else clean
        noisy = not torch.equal(alone[0][1][: len(ids)], clean)
        if noisy and (self.attack != "fgm" or len(alone[0][0]) != len(ids)):
            return
        offset = (first - without).double()
        real = work.probe.inputs["attention_mask"][: len(ids)].bool()
        reach = epsilon / (real.sum(1) * offset.shape[-1]).double().sqrt()
        shares = (offset / reach[:, None, None])[real]
        largest, size, mean = float(shares.abs().max()), float(shares.abs().mean()), float(shares.mean())
        if self.attack == "fgm":
            yield Claim(
                "the first pass is of the clean embeddings", largest == 0, f"off by {float(offset.abs().max()):.4g}"
            )
        else:
            rounding = 1e-3 if first.dtype == torch.float32 else 0.1
            yield Claim(
                "in training the start is uniform, of either sign, up to epsilon over the root of all numbers",
                largest <= 1 + rounding and abs(size - 0.5) < 0.1 and abs(mean) < 0.1,
                f"up to {largest:.3f} of it, {size:.3f} in the mean, {mean:.3f} with the sign",
            )
        if self.attack == "freelb":
            same = sum(torch.equal(state, states[0]) for state in states[:passes:each])
            count = len(states[:passes:each])
            yield Claim("all passes of a batch drop the same", same == count > 1, f"{same} of {count}")


def _slopes(work: Training, move: torch.Tensor) -> tuple[float, torch.Tensor, list[torch.Tensor | None]]:
    """The loss on the probe batch with its embeddings moved, and its gradients at the move and at the trained weights."""
    import torch

    here = move.clone().requires_grad_()
    with _embeddings.changed(work.model, lambda layer, output: output + here):
        value = work.loss(work.probe)
    slope, *weights = torch.autograd.grad(value, [here, *work.parameters], allow_unused=True)
    assert slope is not None
    slopes: list[torch.Tensor | None] = list(weights)
    return float(value.detach()), slope, slopes


class _Perturbation:
    """What is added to a batch's embeddings: at real tokens, of each example."""

    def __init__(self, attention_mask: torch.Tensor, width: int, reach: float) -> None:
        import torch

        self.real = attention_mask[..., None]
        self.delta = torch.zeros(*attention_mask.shape, width, device=attention_mask.device)
        if reach:
            numbers = self.real.sum(dim=(1, 2), keepdim=True) * width
            self.delta.uniform_(-1, 1).mul_(self.real * reach / numbers.sqrt())
        self.delta.requires_grad_()

    def __call__(self, layer: nn.Module, output: torch.Tensor) -> torch.Tensor:
        return output + self.delta.to(output.dtype)

    def ascend(self, alpha: float, epsilon: float, *, last: bool) -> None:
        """One step up each example's gradient, and back into the ball; after the last, no gradient is wanted."""
        assert self.delta.grad is not None
        gradient = self.delta.grad * self.real
        # A gradient that is 0, or too large for half precision, points nowhere.
        moved = self.delta.detach() + alpha * (gradient / _norm(gradient)).nan_to_num(0, 0, 0)
        self.delta = (moved * (epsilon / _norm(moved)).clamp(max=1)).requires_grad_(not last)


def _norm(tensor: torch.Tensor) -> torch.Tensor:
    """Of each example. In double precision: the square of a small gradient is no float32."""
    import torch

    norm: torch.Tensor = torch.linalg.vector_norm(tensor, dim=(1, 2), keepdim=True, dtype=torch.float64)
    return norm.float()


@contextlib.contextmanager
def _frozen(parameters: Iterable[torch.nn.Parameter]) -> Iterator[None]:
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _generator(device: torch.device) -> torch.Generator:
    """What dropout on `device` draws from."""
    import torch

    if device.type == "cuda":
        return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    return torch.default_generator


def _points(seen: list[tuple[torch.Tensor, torch.Tensor]], passes: int, step: int, samples: int) -> list[torch.Tensor]:
    """Where each pass of a batch had its embeddings, its micro-batches put together; nothing where passes are missing.

    A batch, or each of its micro-batches, is passed `passes` times, of which every `step`-th is another point.
    """
    import torch

    if len(seen) % passes:
        return []
    parts = [seen[start : start + passes] for start in range(0, len(seen), passes)]
    same = all(torch.equal(part[0][0], ids) for part in parts for ids, _ in part)
    if not same or sum(len(part[0][0]) for part in parts) != samples:
        return []
    return [torch.cat([part[number][1] for part in parts]) for number in range(0, passes, step)]
