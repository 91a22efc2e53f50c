"""Compression of the gradients that replicas exchange."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from bench.plan.context import PlanContext
from bench.recipe.errors import Refusal
from bench.recipe.method import Modifier
from bench.stage.evidence import Claim

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training

_START = 2
"""Steps before PowerSGD begins: the least that torch allows, since the first ones lay out the buffers."""

_LEAST_RATE = 2
"""PowerSGD leaves a tensor as it is where that would not save half of it: torch's ``min_compression_rate``."""


@dataclass(frozen=True)
class CompressedGradients(Modifier):
    """Exchange gradients between the replicas of ``data_parallel`` in fewer bytes.

    ``bf16`` and ``fp16`` send half of the bytes. ``powersgd`` sends two factors of `rank` columns for each matrix, from
    the third step on, and adds what that loses to the next step's gradient; `rank` is 1 where it is not given, torch's
    default. torch would begin with step 1,000, so that a short training never compresses at all; here it begins with
    the third, the first that torch allows. Built on torch's communication hooks:
    https://docs.pytorch.org/docs/stable/ddp_comm_hooks.html
    """

    name = "compressed_gradients"
    paper = "https://arxiv.org/abs/1905.13727"
    example = 'full + data_parallel(2) + compressed_gradients("powersgd", rank=2)'
    divisible_by = frozenset({"replicas"})
    for_several = True
    order = 81  # once the replicas are there

    to: Literal["bf16", "fp16", "powersgd"]
    rank: Annotated[int, Ge(1)] | None = None

    def problems(self, context: PlanContext) -> Iterator[str]:
        """Replicas must exchange gradients, and often enough."""
        if "replicas" not in context.stage.layout:
            yield f"only replicas exchange gradients; join it with them, as in `{self.example}`"
        if self.rank is not None and self.to != "powersgd":
            yield f"rank is the number of PowerSGD's columns; leave it out for {self.to}"
        if self.to == "bf16" and context.machine.device == "cpu":
            yield "torch sends bf16 through NCCL alone, between GPUs; use fp16 here"
        share = getattr(context.stage.main, "share", 1.0)
        if self.to == "powersgd":
            if round(context.steps * share) <= _START:
                yield f"PowerSGD begins after {_START} steps, and there are no more; raise budget.steps"
            if any(getattr(other, "dtype", None) == "fp16" for other in context.stage.modifiers):
                yield "a gradient that overflows in fp16 would stay in what PowerSGD carries over; use bf16"

    def on_model(self, training: Training) -> None:
        """Register the hook with DistributedDataParallel."""
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

        training.exact = False
        replica: Any = training.forward
        group = training.group.processes("replicas")
        if self.to == "powersgd":
            if not any(self._factors(weight) for weight in training.model.parameters() if weight.requires_grad):
                raise Refusal(
                    f"{self.name}: PowerSGD sends a matrix whole where {self._rank} columns would not save half of it, and "
                    f"so it does all that {training.trainer.name} trains; lower rank, or send fp16"
                )
            state = powerSGD_hook.PowerSGDState(
                group,
                matrix_approximation_rank=self._rank,
                start_powerSGD_iter=_START,
                min_compression_rate=_LEAST_RATE,
            )
            buckets: dict[int, list[torch.Tensor]] = {}
            training.state[self.name] = state, buckets
            on_cpu = training.device.type == "cpu"

            def hook(state: Any, bucket: Any) -> Any:
                buckets[bucket.index()] = bucket.parameters()
                future = powerSGD_hook.powerSGD_hook(state, bucket)
                # On CPUs it goes on in gloo's threads, where the collectives of two buckets could meet in different orders.
                return _ended(future) if on_cpu else future

            # torch reads annotations, and finds these to be others than its own.
            replica.register_comm_hook(state, lambda state, bucket: hook(state, bucket))
        else:
            replica.register_comm_hook(group, getattr(default_hooks, f"{self.to}_compress_hook"))

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """The bytes that replicas exchange are those of the formula, and the gradient shows how it was sent."""
        import torch

        from bench.measure.wire import Wire

        with Wire() as wire:
            work.gradients(work.probe, 1.0)
        found = sum(size * calls for (what, _, size), calls in wire.calls.items() if what == "all_reduce")
        gradients = [parameter.grad for parameter in work.parameters if parameter.grad is not None]
        expected = sum(self._bytes(gradient) for gradient in gradients)
        yield Claim(f"a step exchanges the bytes of {self.to}", found == expected > 0, f"{found:,} of {expected:,}")
        if self.to == "powersgd":
            ranks = [int(torch.linalg.matrix_rank(g)) for g in gradients if self._factors(g)]
            most = max(ranks, default=0)
            rank = self.rank or 1
            yield Claim(f"gradients have at most {rank} directions", 0 < most <= rank, f"at most {most}")
        else:
            dtype = torch.bfloat16 if self.to == "bf16" else torch.float16
            same = sum(torch.equal(g, g.to(dtype).to(g.dtype)) for g in gradients)
            text = f"gradients are numbers of {self.to}"
            yield Claim(text, same == len(gradients) > 0, f"{same} of {len(gradients)} tensors")
        work.optimizer.zero_grad(set_to_none=True)
        yield from self._against_mean(work)

    def _against_mean(self, work: Training) -> Iterator[Claim]:
        """What is exchanged, and what is kept for the next step, against the mean of what each process has alone."""
        import torch
        import torch.distributed as dist

        from bench.models.modes import evaluating

        group = work.group.processes("replicas")

        def mean(tensor: torch.Tensor) -> torch.Tensor:
            total = tensor.detach().float().clone()
            dist.all_reduce(total, group=group)
            average: torch.Tensor = total / group.size()
            return average

        def taken() -> dict[int, torch.Tensor]:
            found = {id(p): p.grad.clone() for p in work.parameters if p.grad is not None}
            work.optimizer.zero_grad(set_to_none=True)
            return found

        state, buckets = work.state.get(self.name, (None, {}))
        with evaluating(work.model):  # dropout would draw differently
            part, weight = work.group.part(work.probe, "replicas")
            replica, work.forward = work.forward, None
            (work.loss(part) * weight).backward()
            work.forward = replica
            alone = {key: mean(slope) for key, slope in taken().items()}
            kept = {index: mean(error) for index, error in state.error_dict.items()} if state else {}
            work.gradients(work.probe, 1.0)
            sent = taken()
        if self.to != "powersgd":
            # Of what is small beside all else half precision leaves nothing.
            floor = 1e-3 * sum(float(slope.square().sum()) for slope in alone.values()) ** 0.5
            worst = max(
                (
                    float((sent[key] - slope).norm()) / (float(slope.norm()) + floor)
                    for key, slope in alone.items()
                    if key in sent
                ),
                default=1.0,
            )
            yield Claim(
                "what is exchanged is the mean of the replicas' gradients, but for rounding",
                sent.keys() == alone.keys() and worst < 1e-2,
                f"relative difference {worst:.1e} at most",
            )
            return
        left = error = size = 0.0
        shorter, along = 0, 0.0
        for index, parameters in buckets.items():
            slopes, arrived = (torch.cat([of[id(p)].float().flatten() for p in parameters]) for of in (alone, sent))
            before = kept.get(index, torch.zeros_like(slopes))
            after = mean(state.error_dict.get(index, torch.zeros_like(slopes)))
            whole = slopes + before
            left += float(before.square().sum())
            error += float((arrived + after - whole).square().sum())
            size += float(whole.square().sum())
            along += float((arrived * whole).sum())
            shorter += float(arrived.norm()) <= float(whole.norm()) * (1 + 1e-4)
        yield Claim(
            "what was lost in a step is kept for the next",
            left > 0,
            f"a norm of {left**0.5:.2g} beside gradients of {size**0.5:.2g}",
        )
        yield Claim(
            "what is exchanged and what is kept are together the mean of gradients and of what was kept before",
            size > 0 and (error / size) ** 0.5 < 1e-3,
            f"relative difference {(error / size) ** 0.5 if size else 1.0:.1e}",
        )
        yield Claim(
            "what is exchanged points where that does, and is no longer",
            along > 0 and shorter == len(buckets) > 0,
            f"in {shorter} of {len(buckets)} buckets, {along / size if size else 0.0:.3f} of it",
        )

    @property
    def _rank(self) -> int:
        return self.rank or 1

    def _factors(self, tensor: torch.Tensor) -> int:
        """How many numbers PowerSGD sends for a tensor; 0 where it leaves it as it is."""
        if tensor.dim() < 2:
            return 0
        rows, columns = tensor.shape[0], tensor[0].numel()
        factors = (rows + columns) * min(rows, columns, self._rank)
        return factors if (rows + columns) * self._rank * _LEAST_RATE < rows * columns else 0

    def _bytes(self, tensor: torch.Tensor) -> int:
        if self.to == "powersgd":
            return (self._factors(tensor) or tensor.numel()) * tensor.element_size()
        return 2 * tensor.numel()


def _ended(future: torch.futures.Future[torch.Tensor]) -> torch.futures.Future[torch.Tensor]:
    future.wait()
    return future
