"""L2-SP, a method of another package than methodbench's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt

from bench.api import Claim, Modifier, Refusal, digest, named_tensors

if TYPE_CHECKING:
    import torch

    from bench.api import Batch, ComputeLoss, PlanContext, Snapshot, Training


@dataclass(frozen=True)
class L2SP(Modifier):
    """Pull each weight towards where it began: add `alpha`/2 times the squared distance to the loss.

    What was drawn at random for the task, such as a new head, is free to go.
    """

    name = "l2_sp"
    paper = "https://arxiv.org/abs/1802.01483"
    example = "full + l2_sp(0.1)"

    alpha: Annotated[float, Gt(0)] = 0.1

    def problems(self, context: PlanContext) -> Iterator[str]:
        """An adapter is new."""
        if "adapter" in context.stage.main.adds:
            yield "an adapter's weights were not there before, so that they have no place to stay near; leave it out"

    def wrap_loss(self, training: Training, compute: ComputeLoss) -> ComputeLoss:
        """Add the penalty to the loss."""
        from bench.api import architecture

        new = {id(parameter) for parameter in architecture.new_parameters(training.model).values()}
        pulled = {
            name: tensor
            for name, tensor in named_tensors(training.model).items()
            if tensor.requires_grad and id(tensor) not in new
        }
        if not pulled:
            raise Refusal(f"{self.name}: {training.trainer.name} trains no weight that was there before; leave it out")
        start = {name: tensor.detach().clone() for name, tensor in pulled.items()}
        training.state[self.name] = start

        def penalized(batch: Batch) -> torch.Tensor:
            squares = [(tensor - start[name]).square().sum() for name, tensor in pulled.items()]
            return compute(batch) + self.alpha / 2 * sum(squares)

        return penalized

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """The weights are pulled to where they were when they arrived, as hard as said."""
        import torch

        from bench.api import evaluating

        start: dict[str, torch.Tensor] = work.state.get(self.name, {})
        same = [name for name, tensor in start.items() if digest(tensor) == before.digests.get(name)]
        yield Claim(
            "the weights are pulled to where they were when they arrived",
            bool(start) and len(same) == len(start),
            f"{len(same)} of {len(start)} tensors",
        )
        # Were they to be pulled to where they are, the loss would be without the penalty; to where the
        # squared distance is 2/alpha, it would be larger by 1.
        kept = {name: tensor.clone() for name, tensor in start.items()}
        weights = named_tensors(work.model)
        count = sum(tensor.numel() for tensor in start.values())
        losses = []
        with evaluating(work.model), torch.no_grad():
            for distance in (0.0, 2 / self.alpha):
                for name, tensor in start.items():
                    tensor.copy_(weights[name] + (distance / count) ** 0.5)
                losses.append(float(work.loss(work.probe)))
        for name, tensor in start.items():
            tensor.copy_(kept[name])
        rise = losses[1] - losses[0]
        yield Claim("the loss grows with the distance as said", abs(rise - 1) < 1e-2, f"by {rise:.4f} where 1 is due")
