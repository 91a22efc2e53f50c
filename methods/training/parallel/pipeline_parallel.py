"""Pipeline parallel training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from bench.distributed.group import batch_parts
from bench.models.names import plain
from bench.plan.context import PlanContext
from bench.recipe.method import Modifier, Trainer
from bench.stage.evidence import Claim, digest
from methods._models import known
from methods.training.parallel._shared import divided_training

if TYPE_CHECKING:
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import ComputeGradients, Training


@dataclass(frozen=True)
class PipelineParallel(Modifier):
    """Divide the blocks among `n` processes, one behind the other, and send each batch through in `microbatches`.

    The first process has the embeddings too, the last one the head; what one has computed of a micro-batch goes to the
    next, and gradients come back. ``gpipe`` sends all micro-batches forward and then all back; ``1f1b`` goes one back as
    soon as it can, so that a process holds activations of no more micro-batches than there are processes from it to the last;
    ``interleaved`` gives each process two pieces of the model, for shorter waits and more to send. A process waits
    (n − 1) / (microbatches + n − 1) of a step in the first two. Micro-batches are of one size and weighted by the terms
    in their loss. Where the head shares the embeddings' weight, both ends hold it and add up its gradients. Built on
    ``torch.distributed.pipelining``: https://docs.pytorch.org/docs/stable/distributed.pipelining.html
    """

    name = "pipeline_parallel"
    paper = "https://arxiv.org/abs/1811.06965"
    example = "full + pipeline_parallel(2, microbatches=4)"
    refuses = (
        (
            "quantized",
            "packed weights cannot be sent from process to process; train replicas of the model with data_parallel",
        ),
    )
    axis = "layers"
    order = 70  # takes the place of a loss and its backward pass; replicas and micro-batches of a step are around it

    n: Annotated[int, Ge(1)]
    microbatches: Annotated[int, Ge(1)]
    schedule: Literal["gpipe", "1f1b", "interleaved"] = "1f1b"

    @property
    def processes(self) -> int:
        """One for each part of the blocks."""
        return self.n

    @property
    def passes(self) -> int:
        """One for each micro-batch."""
        return self.microbatches

    @property
    def _each(self) -> int:
        """How many pieces of the model a process has."""
        return 2 if self.schedule == "interleaved" else 1

    def problems(self, context: PlanContext) -> Iterator[str]:
        """There must be blocks and micro-batches enough, and nothing but hidden states between blocks."""
        yield from known(context, "row")
        if self.schedule == "1f1b" and self.microbatches < self.n:
            yield f'1f1b takes at least as many microbatches as processes, {self.n}; raise microbatches, or use schedule="gpipe"'
        if self.schedule == "interleaved" and self.microbatches % self.n:
            yield f"interleaved takes a multiple of {self.n} microbatches, as many as processes; change microbatches"
        parts = batch_parts(context.stage.layout) * math.prod(modifier.passes for modifier in context.stage.modifiers)
        if context.batch_size % parts:
            yield (
                f"a batch of {context.batch_size} cannot be divided into {parts} equal micro-batches; "
                f"make budget.batch_size a multiple of {parts}"
            )
        replaced = isinstance(context.stage.main, Trainer) and context.stage.main.replaces_model
        if not replaced and (blocks := context.blocks) and blocks < self.n * self._each:
            pieces = f"{self.n} processes, two pieces each," if self._each == 2 else f"{self.n} processes"
            yield f"{blocks} blocks cannot be divided among {pieces}; lower n"

    def wrap_gradients(self, training: Training, compute: ComputeGradients) -> ComputeGradients:
        """Keep this process's pieces of the model, and have them compute together with the others'."""
        from methods.training.parallel._shared.pipeline import Pipeline

        pipeline = training.state[self.name] = Pipeline(training, self.microbatches, self.schedule, self._each)
        pipeline.part()
        return pipeline.gradients

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """Each process holds and trains its blocks alone, sees all items in micro-batches, and sends what is between.

        Then each process holds the whole model again: what other methods claim is about that.
        """

        yield divided_training.alive(work, "layers")
        yield from self._held(work)
        yield from self._exchange(work)
        if pipeline := work.state.get(self.name):
            pipeline.gather()
        yield from self._gradient(work)
        work.state[f"{self.name} end"] = before.shapes

    def _held(self, work: Training) -> Iterator[Claim]:
        """Who holds what, and has state in the optimizer for what."""
        names = {id(parameter): name for name, parameter in work.model.named_parameters()}
        held = {names[id(parameter)] for parameter in work.model.parameters() if parameter.numel()}
        gathered = work.group.all_gather(held, "layers")
        found = {name: {at for at, theirs in enumerate(gathered) if name in theirs} for name in names.values()}
        wanted = {names[key]: {piece % self.n for piece in pieces} for key, pieces in self._pieces(work.model).items()}
        right = sum(found[name] == wanted[name] for name in found)
        yield Claim(
            f"the weights are divided into {self.n * self._each} pieces, by blocks",
            right == len(found),
            f"{right} of {len(found)} tensors are where they belong, {', '.join(str(len(each)) for each in gathered)} held",
        )
        kept = {names[id(parameter)] for parameter in work.optimizer.state if id(parameter) in names}
        yield Claim(
            "the optimizer has state of nothing that others hold",
            kept <= held,
            f"{len(kept - held)} of {len(kept)} are others'",
        )

    def _exchange(self, work: Training) -> Iterator[Claim]:
        """How one step goes through, and what it sends."""
        from bench.measure.wire import Wire
        from bench.models.architecture import body, stack

        order: list[str] = []
        numbers: list[int] = []

        def forward(module: nn.Module, args: object, output: Any) -> None:
            numbers.append(output.last_hidden_state.numel())
            if output.last_hidden_state.requires_grad:
                order.append("F")
                output.last_hidden_state.register_hook(lambda gradient: order.append("B"))

        hook = body(work.model).register_forward_hook(forward)
        with divided_training.items(work.model) as seen, Wire(work.group.processes("layers")) as wire:
            work.gradients(work.probe, 1.0)
        hook.remove()
        work.optimizer.zero_grad(set_to_none=True)

        gathered = work.group.all_gather(seen, "layers")
        rows = [row for each in work.group.all_gather(seen) for part in each for row in part]
        expected = sorted(work.probe.inputs["input_ids"].tolist() * self.n * self._each)
        sizes = {len(part) for part in seen}
        yield Claim(
            f"all processes work on the same micro-batches, {self.microbatches} at a time",
            sorted(rows) == expected
            and all(sorted(each) == sorted(seen) for each in gathered)
            and len(sizes) == 1
            and len(seen) % (self.microbatches * self._each) == 0,
            f"{', '.join(str(len(each)) for each in gathered)} passes of {', '.join(map(str, sizes))} items",
        )
        pieces = self._pieces(work.model)
        trained = {id(parameter): parameter for parameter in work.model.parameters() if parameter.requires_grad}
        lowest = min(piece for key in trained for piece in pieces[key])
        rank, count = work.group.local_rank("layers"), self.n * self._each
        most = max((order[:at].count("F") - order[:at].count("B") for at in range(len(order) + 1)), default=0)
        formula = self._in_flight(rank)
        yield Claim(
            f"activations are held of as many passes at once as {self.schedule} says",
            most == formula or (lowest > 0 and most < formula),  # nothing is held of what no gradient goes through
            f"{most} of {order.count('F')}, {formula} by the formula",
        )
        ours = range(rank, count, self.n) if self.n > 1 else ()
        crossings = sum((piece < count - 1) + (piece > lowest) for piece in ours)
        hidden = sum(numbers) // self._each * next(stack(work.model).parameters()).element_size()
        twice = [trained[key] for key in trained if len(pieces[key]) > 1 and rank in (0, self.n - 1) and self.n > 1]
        wanted = crossings * hidden + sum(parameter.numel() * parameter.element_size() for parameter in twice)
        yield Claim(
            "hidden states go to the next piece and gradients to the one before",
            wire.sent == wanted and {what for what, _, _ in wire.calls} <= {"send"},
            f"{wire.sent:,.0f} of {wanted:,} bytes sent",
        )

    def _gradient(self, work: Training) -> Iterator[Claim]:
        """What the pieces compute together against the whole model in this process alone."""
        import torch

        from bench.models.modes import evaluating

        def alone() -> torch.Tensor:
            loss = work.loss(work.probe)
            torch.autograd.backward(loss)
            return loss.detach()

        with evaluating(work.model):  # dropout would draw differently
            taken, losses = [], []
            both: tuple[Callable[[], torch.Tensor], ...] = (lambda: work.gradients(work.probe, 1.0), alone)
            for compute in both:
                work.optimizer.zero_grad(set_to_none=True)
                losses.append(float(compute()))
                taken.append({id(p): p.grad for p in work.parameters if p.grad is not None})
        work.optimizer.zero_grad(set_to_none=True)
        ours, whole = taken
        rank = work.group.local_rank("layers")
        pieces = self._pieces(work.model)
        held = {key for key in whole if any(piece % self.n == rank for piece in pieces[key])}
        limit = 1e-4 if work.compute_dtype == torch.float32 else 3e-2
        size = sum(float(whole[key].float().norm()) ** 2 for key in held) ** 0.5
        errors = {
            key: float((ours[key] - whole[key]).float().norm()) / (float(whole[key].float().norm()) + 0.1 * size)
            for key in held & ours.keys()
        }
        right = sum(error <= limit for error in errors.values())
        yield Claim(
            "the gradient of what is held is the whole model's",
            held == ours.keys() and right == len(held) > 0,
            f"of {right} of {len(held)} tensors, relative difference {max(errors.values(), default=math.inf):.1e}, at most {limit:g}",
        )
        said = work.group.all_gather(losses[0])
        told = sum(said) / len(said)
        yield Claim(
            "the mean of the losses that they tell is the whole batch's",
            abs(told - losses[1]) <= limit * max(1.0, abs(losses[1])),
            f"{told:.6g} against {losses[1]:.6g}",
        )

    def _pieces(self, model: nn.Module) -> dict[int, set[int]]:
        """The pieces that each parameter, by its id, belongs in."""
        from bench.models.architecture import after_blocks, stack, unwrapped

        count = self.n * self._each
        layers = stack(model)
        last = {id(parameter) for parameter in after_blocks(model).values()}
        found = {id(parameter): {count - 1 if id(parameter) in last else 0} for parameter in model.parameters()}
        for number, block in enumerate(layers):
            piece = next(piece for piece in range(count) if number < len(layers) * (piece + 1) // count)
            found |= {id(parameter): {piece} for parameter in block.parameters()}
        whole = unwrapped(model)
        if (head := whole.get_output_embeddings()) and head.weight is whole.get_input_embeddings().weight:
            found[id(head.weight)] = {0, count - 1}
        return found

    def _in_flight(self, rank: int) -> int:
        """Of how many passes the process of `rank` holds the activations at most."""
        if self.schedule == "gpipe":
            return self.microbatches
        if self.schedule == "1f1b":
            return min(self.microbatches, self.n - rank)
        return min(2 * self.microbatches, self.n + 2 * (self.n - 1 - rank) + 1)

    def removal_evidence(self, work: Training) -> Iterator[Claim]:
        """The model is whole, and the same everywhere."""
        shapes = work.state.get(f"{self.name} end", {})
        parameters = list(work.model.named_parameters())
        # What the trainer has added has a name of its own.
        whole = [
            name for name, p in parameters if p.numel() and tuple(p.shape) == shapes.get(plain(name), tuple(p.shape))
        ]
        left = [
            type(module).__name__
            for module in work.model.modules()
            if type(module).__name__ in ("Piece", "HandsOn", "Receives")
        ]
        yield Claim(
            "the model is whole again",
            len(whole) == len(parameters) and not left,
            f"{len(whole)} of {len(parameters)} weights are, {len(left)} stand-ins are left",
        )
        gathered = work.group.all_gather([digest(parameter) for _, parameter in parameters])
        yield Claim(
            "all processes have the same weights", len(set(map(tuple, gathered))) == 1, f"{len(gathered)} processes"
        )
