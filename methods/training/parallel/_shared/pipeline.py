"""A model in pieces, one behind the other, of which each process holds some. Imported inside hooks alone, for it imports torch.

The pieces are the model itself: while one computes, modules that hand on what they are given stand in the places of what
belongs to the others. So no model has to be written again in pieces, and its own forward pass makes masks and positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B

from bench.models.architecture import body, config, stack
from bench.recipe.errors import Refusal
from bench.stage.loop import Training
from bench.tasks.base import Batch


class HandsOn(nn.Module):
    """Stands in for what another piece computes: gives what it is given."""

    def forward(self, hidden: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
        """The hidden states as they are."""
        return hidden


class Receives(nn.Module):
    """Stands in for the embeddings: gives the hidden states that the piece before left."""

    hidden: torch.Tensor

    def forward(self, *args: Any, **named: Any) -> torch.Tensor:
        """What came."""
        return self.hidden


class Piece(nn.Module):
    """The `number`-th of `count` pieces of `model`, with as many blocks as the others or one more.

    The first has what comes before the blocks too, and the last what comes after them; ``held`` are the ids of the
    parameters that this takes. `compute` says what the piece gives for the micro-batch of a number.
    """

    def __init__(
        self, model: nn.Module, number: int, count: int, compute: Callable[[Piece, int], torch.Tensor]
    ) -> None:
        super().__init__()
        self.number, self.first, self.last = number, number == 0, number == count - 1
        self._compute = compute
        self._receives = Receives()
        layers, inner = stack(model), body(model)
        own = range(len(layers) * number // count, len(layers) * (number + 1) // count)
        before, after = _around(inner, layers)
        self._places: list[tuple[nn.Module, str, nn.Module]] = [
            (layers, str(block), HandsOn()) for block in range(len(layers)) if block not in own
        ]
        held = [layers[block] for block in own]
        if self.first:
            held += [inner.get_submodule(name) for name in before]
        else:
            self._places += [(inner, name, HandsOn() if at else self._receives) for at, name in enumerate(before)]
        if self.last:
            held += [inner.get_submodule(name) for name in after]
        else:
            self._places += [(inner, name, HandsOn()) for name in after]
        self.held = {id(parameter) for module in held for parameter in module.parameters()}
        if self.last:
            outside = set(model.modules()) - set(inner.modules())
            self.held |= {id(parameter) for module in outside for parameter in module.parameters(recurse=False)}

    def forward(self, *received: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """Hidden states in, hidden states out; but the first takes none, and the last gives a loss."""
        if received:
            self._receives.hidden = received[0]
        there = [(parent, name, parent._modules[name]) for parent, name, _ in self._places]
        for parent, name, stands_in in self._places:
            parent._modules[name] = stands_in
        try:
            return self._compute(self, int(which))
        finally:
            for parent, name, module in there:
                parent._modules[name] = module


def _around(inner: nn.Module, layers: nn.ModuleList) -> tuple[list[str], list[str]]:
    """The names of the children of `inner` that have weights: those before the blocks, and those after them."""
    named = [name for name, child in inner.named_children() if any(True for _ in child.parameters())]
    at = next(place for place, name in enumerate(named) if layers in inner.get_submodule(name).modules())
    return named[:at], named[at + 1 :]


class Pipeline:
    """The pieces that this process holds of a training's model, and how micro-batches go through all of them.

    Each process has `each` pieces: of two, the second begins where the last process's first one ends.
    """

    def __init__(self, training: Training, microbatches: int, schedule: str, each: int) -> None:
        self._training, self._microbatches, self._kind = training, microbatches, schedule
        self._group = training.group.processes("layers")
        self.processes: int = self._group.size()
        self.rank = training.group.local_rank("layers")
        model = training.model
        self.count = self.processes * each
        everywhere = [Piece(model, number, self.count, self._compute) for number in range(self.count)]
        self.pieces = everywhere[self.rank :: self.processes]
        self._owners = {
            id(p): [piece.number % self.processes for piece in everywhere if id(p) in piece.held]
            for p in model.parameters()
        }
        if homeless := [name for name, p in model.named_parameters() if not self._owners[id(p)]]:
            raise Refusal(
                f"pipeline_parallel: {homeless[0]} is neither before, nor in, nor after the blocks of this model"
            )
        trained = {owner for p in model.parameters() if p.requires_grad for owner in self._owners[id(p)]}
        if idle := set(range(self.processes)) - trained:
            raise Refusal(
                f"pipeline_parallel: process {min(idle)} would hold nothing that {training.trainer.name} trains; lower n"
            )
        held = set().union(*(piece.held for piece in self.pieces))
        self.held = [p for p in model.parameters() if id(p) in held]
        # Whether a gradient goes back through the end of each piece.
        trains = [any(p.requires_grad and id(p) in piece.held for p in model.parameters()) for piece in everywhere]
        self.differentiable = [any(trains[: number + 1]) for number in range(self.count)]
        # What the head shares with the embeddings is at both ends.
        ends = {0, self.processes - 1}
        self._shared = [p for p in self.held if p.requires_grad and set(self._owners[id(p)]) == ends != {0}]
        self._dtype = next(stack(model)[0].parameters()).dtype
        self._shape: tuple[int, ...] = ()
        self._batches: list[Batch] = []

    def part(self) -> None:
        """Let go of the others' weights."""
        for parameter in self._others():
            parameter.full_shape = tuple(parameter.shape)  # type: ignore[attr-defined]
            parameter.data = parameter.data.new_empty((0, *parameter.shape[1:]))
        for parameter in self._shared:
            # It belongs to the norm of all gradients once.
            parameter.counted_elsewhere = self.rank > 0  # type: ignore[attr-defined]

    def gather(self) -> None:
        """Hold the whole model in each process again; all must ask for it."""
        others = {id(parameter) for parameter in self._others()}
        for parameter in self._training.model.parameters():
            data = parameter.data.contiguous()
            if id(parameter) in others:
                data = data.new_empty(getattr(parameter, "full_shape", parameter.shape))
            dist.broadcast(data, group=self._group, group_src=self._owners[id(parameter)][0])
            parameter.data = data
            for mark in ("full_shape", "counted_elsewhere"):
                vars(parameter).pop(mark, None)

    def _others(self) -> list[nn.Parameter]:
        held = set(map(id, self.held))
        return [parameter for parameter in self._training.model.parameters() if id(parameter) not in held]

    def gradients(self, batch: Batch, scale: float | torch.Tensor) -> torch.Tensor:
        """Send the batch through all pieces and back.

        Only the last process sees the loss. It says `processes` times the loss and the others none, so that the mean
        over all is the batch's, as with every way to divide a stage.
        """
        training = self._training
        self._batches = batch.split(self._microbatches)
        if len(self._batches) < self._microbatches or len({part.samples for part in self._batches}) > 1:
            raise Refusal(
                f"pipeline_parallel: a batch of {batch.samples} items cannot be divided into {self._microbatches} equal micro-batches; "
                "lower budget.batch_size or microbatches"
            )
        self._scale, self._shares = scale, [part.weight / batch.weight for part in self._batches]
        self._losses: list[torch.Tensor] = []
        numbers = torch.arange(self._microbatches)
        target = numbers if self.pieces[-1].last else None
        try:
            self._schedule().step(which=numbers, target=target, return_outputs=False)
        except RuntimeError as error:
            # torch puts an error of its own around any, which hides that memory ran out.
            raise error.__cause__ or error from None
        if self._shared and not training.more_to_come:
            self._exchange()
        if not self._losses:
            return torch.zeros((), device=training.device)
        return torch.stack(self._losses).sum() * self.processes

    def _compute(self, piece: Piece, number: int) -> torch.Tensor:
        """What `piece` gives for a micro-batch, with every hook around it that a loss has."""
        training, batch = self._training, self._batches[number]
        forward, criterion = training.forward, training.criterion
        if not piece.last:
            training.forward = body(training.model)
            training.criterion = lambda outputs, batch: outputs.last_hidden_state.to(self._dtype)
        try:
            result = training.loss(batch)
        finally:
            training.forward, training.criterion = forward, criterion
        if not piece.last:
            return result if self.differentiable[piece.number] else result.detach()
        self._losses.append(result.detach() * self._shares[number])
        return result.reshape(1)

    def _schedule(self) -> Any:
        """The schedule for batches of this shape. One at a time, for each holds what it receives into."""
        items, length = self._batches[0].inputs["input_ids"].shape
        if (shape := (items, length)) != self._shape:
            self._shape = shape
            hidden = config(self._training.model).hidden_size
            self._at_work = self._scheduled((items, length, hidden))
        return self._at_work

    def _scheduled(self, shape: tuple[int, int, int]) -> Any:
        def between(number: int) -> torch.Tensor:
            """What goes from a piece to the next."""
            return torch.empty(shape, dtype=self._dtype, device="meta", requires_grad=self.differentiable[number])

        stages = [
            PipelineStage(
                piece,
                piece.number,
                self.count,
                self._training.device,
                input_args=() if piece.first else between(piece.number - 1),
                output_args=torch.empty(1, device="meta") if piece.last else between(piece.number),
                group=self._group,
            )
            for piece in self.pieces
        ]

        def loss(output: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
            return output.sum() * self._scale * self._shares[int(which)]

        options: dict[str, Any] = {"n_microbatches": self._microbatches, "loss_fn": loss, "scale_grads": False}
        if self._kind == "interleaved":
            return ScheduleInterleaved1F1B(list(stages), **options)
        return {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}[self._kind](stages[0], **options)

    def _exchange(self) -> None:
        """Add up the gradients that the first and the last process have of what both hold."""
        other = dist.get_global_rank(self._group, self.processes - 1 - self.rank)
        for parameter in self._shared:
            assert parameter.grad is not None
            theirs = torch.empty_like(parameter.grad)
            sends = dist.P2POp(dist.isend, parameter.grad.contiguous(), other, self._group)
            receives = dist.P2POp(dist.irecv, theirs, other, self._group)
            for work in dist.batch_isend_irecv([sends, receives]):
                work.wait()
            parameter.grad += theirs
