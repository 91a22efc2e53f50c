"""Noisy embeddings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt

from bench.plan.context import PlanContext
from bench.recipe.method import Modifier
from bench.stage.evidence import Claim
from methods import _embeddings
from methods._models import tokens

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import ComputeLoss, Training
    from bench.tasks.base import Batch


@dataclass(frozen=True)
class NEFTune(Modifier):
    """Add uniform noise in ±alpha/√(L·d) to the token embeddings while training.

    L is the padded length of the batch and d the width of an embedding, as in the authors' code and in transformers'
    ``neftune_noise_alpha``. The paper tries 5, 10 and 15; 5 is its first. Nothing is added in evaluation.
    """

    name = "neftune"
    traits = frozenset({"one_pass"})
    paper = "https://arxiv.org/abs/2310.05914"
    example = "full + neftune"
    divisible_by = frozenset({"devices"})

    alpha: Annotated[float, Gt(0)] = 5.0

    def problems(self, context: PlanContext) -> Iterator[str]:
        """The texts' embeddings go into one stack."""
        yield from tokens(context)
        if context.structure.encoder_decoder:
            yield f"a {context.model} model embeds each text twice, for its encoder and its decoder, and the bound is for one; leave it out"

    def wrap_loss(self, training: Training, compute: ComputeLoss) -> ComputeLoss:
        """Add the noise in the forward pass."""

        def noisy(batch: Batch) -> torch.Tensor:
            with _embeddings.changed(training.model, self._noise):
                return compute(batch)

        return noisy

    def _noise(self, layer: nn.Module, output: torch.Tensor) -> torch.Tensor:
        import torch

        if not layer.training:
            return output
        bound = self._bound(output)
        return output + torch.empty_like(output).uniform_(-bound, bound)

    def _bound(self, embedded: torch.Tensor) -> float:
        _, length, width = embedded.shape
        return self.alpha / math.sqrt(length * width)

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """In training the embeddings that go into the model are off by uniform noise within the bound, in evaluation not at all."""
        import torch

        from bench.models.architecture import embeddings
        from bench.models.modes import evaluating

        with torch.no_grad():
            with torch.random.fork_rng(), _embeddings.observed(work.model) as seen:
                work.loss(work.probe)
                passes = len(seen)
                work.loss(work.probe)
                with evaluating(work.model):
                    work.loss(work.probe)
            clean = embeddings(work.model)(seen[0][0])
        trained, again, evaluated = (seen[place][1] - clean for place in (0, passes, -1))
        bound = self.alpha / (seen[0][0].shape[1] * clean.shape[-1]) ** 0.5
        rounding = float(clean.abs().max()) * torch.finfo(clean.dtype).eps
        largest, mean = float(trained.abs().max()), float(trained.abs().float().mean())
        yield Claim("no noise is beyond the bound", largest <= bound + 2 * rounding, f"{largest:.4g} of {bound:.4g}")
        # Of uniform noise the mean is half of the bound.
        half, sign = abs(mean / bound - 0.5) <= 0.1, float(trained.float().mean()) / bound
        yield Claim(
            "the noise is uniform up to the bound, of either sign",
            half and abs(sign) <= 0.1,
            f"its mean is {mean / bound:.3f} of the bound, with the sign {sign:.3f}",
        )
        vectors = trained.flatten(0, 1)
        distinct, count = len(vectors.unique(dim=0)), len(vectors)
        other = not torch.equal(trained, again)
        yield Claim(
            "each token has its own, and another in the next pass",
            distinct == count and other,
            f"{distinct} different of {count}, then {'others' if other else 'the same'}",
        )
        left = float(evaluated.abs().max())
        yield Claim("there is none in evaluation", left == 0, f"embeddings are off by {left:.4g}")
