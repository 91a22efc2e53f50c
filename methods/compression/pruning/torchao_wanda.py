"""Pruning by weights and activations, as torchao does it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt, Lt

from bench.stage.evidence import Claim
from methods import _coverage, _masks, _replay, _statistics
from methods._calibration import Calibrated

if TYPE_CHECKING:
    import torch

    from bench.stage.work import Work


@dataclass(frozen=True)
class TorchaoWanda(Calibrated, _masks.Pruning):
    """Set weights to zero by torchao's ``WandaSparsifier``, beside which `wanda`, which is written here, can be seen.

    It sees ``samples`` items of ``data``, one after the other and without padding, and prunes all layers at once, so that
    none sees what the pruned ones before it give. And it is not what the paper has: in version 0.18 the lowest weights of
    a whole layer go, not of each row, and a weight's size is multiplied by the square of its input's norm. Nothing gets
    faster by it: dense kernels multiply by zero as fast as by anything. A later training keeps the zeros.
    Documentation: https://github.com/pytorch/ao/blob/main/torchao/sparsity/wanda.py
    """

    name = "torchao_wanda"
    paper = "https://arxiv.org/abs/2306.11695"
    example = "full >> torchao_wanda(0.5)"
    needs = ("torchao.sparsity",)

    amount: Annotated[float, Gt(0), Lt(1)]

    def prune(self, work: Work, amount: float) -> None:
        """Let torchao watch the layers while the items go through, and choose."""
        import torch
        from torchao.sparsity import WandaSparsifier

        from bench.models.modes import evaluating

        sparsifier = WandaSparsifier(sparsity_level=amount)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.ao.quantization is deprecated")
            sparsifier.prepare(work.model, [{"tensor_fqn": f"{name}.weight"} for name in _masks.layers(work.model)])
        with evaluating(work.model), torch.no_grad():
            for batch in _statistics.batches(work, self.calibration):
                for number, length in enumerate(batch.lengths):
                    work.model(**{name: rows[number : number + 1, :length] for name, rows in batch.inputs.items()})
        sparsifier.step()
        sparsifier.squash_mask()
        for module in work.model.modules():
            vars(module).pop("qconfig", None)  # which it left on all of them

    def pattern(self, work: Work) -> Iterator[Claim]:
        """Each layer's share of zeros is the amount."""
        yield _masks.share_is(self.amount, [[weight] for weight in _coverage.weights(work.model).values()])

    def chosen(self, work: Work, originals: Mapping[str, torch.Tensor]) -> Iterator[Claim]:
        """In no layer was a weight zeroed that scored more than one that was kept."""
        yield _masks.unchanged(work, originals)
        zero = {name: (_coverage.weights(work.model)[name].detach() == 0).cpu() for name in originals}
        squares = self._squares(work, originals)
        groups = (
            ((was.float().abs() * squares[name].cpu()).view(1, -1), zero[name].view(1, -1))
            for name, was in originals.items()
        )
        yield _masks.lowest("each layer's lowest |W|·‖X‖²", groups, 1e-3)

    def _squares(self, work: Work, originals: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The squares of each layer's inputs, summed over tokens, in the model as it was."""
        import torch

        weights = {name: _coverage.weights(work.model)[name] for name in originals}
        pruned = {name: weight.detach().clone() for name, weight in weights.items()}
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(originals[name])
            found = dict(_replay.sums(work, originals, self.calibration, lambda rows: (rows * rows).sum(0)))
            for name, weight in weights.items():
                weight.copy_(pruned[name])
        return found
