"""The training loop, and where methods take part in it.

::

    freeze every parameter
    on_model            of the trainer, then of each modifier by its order, then of transforms earlier in the recipe
    make_optimizer      the first that makes one wins; AdamW otherwise
    wrap_criterion, wrap_loss, wrap_gradients, wrap_update
                        each wraps the one before, once, before the first step: an unused hook costs nothing
    on_start            in training mode; nothing that it draws, holds or takes in time is the training's
    for each step:
        batch           loaded outside the clock
        transform_batch
        ┌ clock
        │ gradients     = loss = criterion(model(batch)); loss.backward()
        │ update        = optimizer.step(); optimizer.zero_grad()
        │ on_step
        └ clock
        on_step_end
    on_end

No method is named here.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from bench.distributed.group import Group
from bench.measure.clock import StepClock, step_clock
from bench.recipe.facts import stages_in_effect
from bench.recipe.method import Method, Trainer, Transform
from bench.stage import mask
from bench.stage.work import Work
from bench.tasks.base import Batch

Criterion = Callable[[Any, Batch], torch.Tensor]
ComputeLoss = Callable[[Batch], torch.Tensor]
ComputeGradients = Callable[[Batch, "float | torch.Tensor"], torch.Tensor]
"""``compute(batch, scale)`` adds `scale` times the loss's gradients to those there, and returns the loss unscaled."""
Update = Callable[[], None]


_ONE = 1.0


class Diverged(Exception):
    """The loss is not finite any more. The message says at which step."""


class Training(Work):
    """One trainer at work.

    ``parameters`` are those that are trained, and ``groups`` the same in groups with options of their own, which is
    what an optimizer is made of; ``optimizer_options`` go to the optimizer, whichever is made
    (``lr``, ``weight_decay``). ``compute_dtype`` is what the forward pass multiplies in;
    ``gradients`` and ``update`` are the two halves of a step, with every hook in them.
    ``mask_is_idle`` is whether batches without padding go without a mask.
    ``group`` is the processes that train together, ``forward`` what the loss calls, which is the model or something
    around it. ``exact`` is whether gradients are exchanged as they are. While ``more_to_come`` is set, another
    micro-batch of the same step follows, and gradients need not be exchanged yet. ``beside`` holds models that train beside ``model``, by a hook that sees to it.
    A hook may set ``stop`` to end the training after the current step. ``coming`` are the batches that are not taken yet,
    where some were. ``resumed`` are the steps, counted from 0, before which the training went on in another process
    (:mod:`bench.stage.resume`), and ``earlier_seconds`` those of the steps that earlier processes took. ``made_by`` is the method that made the
    optimizer, None for the default one; ``first_batch`` is the first that was drawn, before any hook; ``began`` are
    :func:`bench.stage.evidence.marks` of the weights that train, as they were when the first step began.
    """

    def __init__(self, *, clock: StepClock | None = None, group: Group | None = None, **work: Any) -> None:
        super().__init__(**work)
        self.group = group or Group()
        self.forward: Callable[..., Any] | None = None
        self.mask_is_idle = False
        self.exact = True
        self.more_to_come = False
        trainer = self.stage.main
        assert isinstance(trainer, Trainer)
        self.trainer = trainer
        items = 0 if self.budget.epochs is None else self.task.epoch_items(self.tokenizer, self.budget.max_length)
        self.steps = max(1, round(self.budget.optimizer_steps(items) * trainer.share))
        self.clock = clock or step_clock(self.device, self.stage.gpus_each)
        self.step = 0
        self.stop = False
        self.losses: list[torch.Tensor] = []
        self._looked = 0  # losses
        self._seen = {"loss": math.nan, "tokens": 0.0}
        self.tokens: list[int] = []
        self.samples: list[int] = []
        self.data_seconds = 0.0
        self.coming: Iterator[Batch] | None = None
        self.earlier_seconds: list[float] = []
        self.resumed: list[int] = []
        self.largest: Batch | None = None
        self.optimizer_options: dict[str, Any] = {"lr": trainer.lr}
        self.compute_dtype = torch.float32
        self.beside: list[torch.nn.Module] = []
        self.parameters: list[torch.nn.Parameter] = []
        self.groups: list[dict[str, Any]] = []
        self.made_by: Method | None = None
        self.first_batch: Batch | None = None
        self.began: dict[str, torch.Tensor | str] = {}

    @property
    def methods(self) -> tuple[Method, ...]:
        """Those whose hooks are called, in the order of calling: the inner first."""
        modifiers = sorted(self.stage.modifiers, key=lambda modifier: (modifier.order, modifier.name))
        return (self.trainer, *modifiers, *self.carried)

    @property
    def carried(self) -> tuple[Transform, ...]:
        """Transforms earlier in the recipe, which may have something to keep."""
        *before, _ = stages_in_effect((*self.before, self.stage))
        return tuple(kept for stage in before for method in stage.methods for kept in method.maintained())

    def prepare(self) -> None:
        """Freeze, let the methods build, and put the step together."""
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        for method in self.methods:
            method.on_model(self)
        self.parameters = [
            parameter
            for model in (self.model, *self.beside)
            for parameter in model.parameters()
            if parameter.requires_grad
        ]
        self.groups = [{"params": self.parameters}]
        self.optimizer = self._optimizer()
        self.criterion: Criterion = self._wrapped("wrap_criterion", self.task.criterion)
        self.loss: ComputeLoss = self._wrapped("wrap_loss", self._loss)
        self.gradients: ComputeGradients = self._wrapped("wrap_gradients", self._gradients)
        self.update: Update = self._wrapped("wrap_update", self._update)
        # Looking into a mask makes the host wait for a GPU, not for a CPU.
        if self.device.type != "cpu" and self.forward is None:
            self.mask_is_idle = mask.idle(self.model, self.probe)
        self.model.train()
        for begin in self._overriding("on_start"):
            begin(self)

    def run(self) -> None:
        """Train for the budget's steps. ``largest`` is then the batch that takes most memory.

        Raises:
            Diverged: the loss is not finite.
        """
        for _ in self.each_step():
            pass

    def each_step(self) -> Iterator[int]:
        """Take the budget's steps, and give the number of each when it is over; whoever asks for the next may let time pass.

        Those that were taken before, in another process, are not taken again.

        Raises:
            Diverged: the loss is not finite.
        """
        with mask.unasked(self.model) if self.mask_is_idle else contextlib.nullcontext():
            yield from self._each_step()

    def _each_step(self) -> Iterator[int]:
        batches = self.coming or self.batches()
        transform_batch = self._overriding("transform_batch")
        on_step = self._overriding("on_step")
        on_step_end = self._overriding("on_step_end")
        # Reading a loss waits for a GPU, so there they are looked at now and then, together; on a CPU at once.
        look_every = 1 if self.device.type == "cpu" else 20
        clock, gradients, update = self.clock, self.gradients, self.update
        self.model.train()
        self._seen["tokens"] = float(sum(self.tokens))
        for step in range(len(self.losses), self.steps):
            self.step = step
            asked = time.perf_counter()
            batch = next(batches)
            if step == 0:
                self.first_batch = batch
            for change in transform_batch:
                batch = change(self, batch)
            self.data_seconds += time.perf_counter() - asked
            self.largest = max(self.largest or batch, batch, key=_elements)
            clock.start()
            loss = gradients(batch, _ONE)
            update()
            for call in on_step:
                call(self)
            clock.stop()
            self.losses.append(loss)
            self.tokens.append(batch.tokens)
            self._seen["tokens"] += batch.tokens
            self.samples.append(batch.samples)
            if self.step % look_every == 0 or self.step == self.steps - 1:
                self.look()
            self.progress("train", self.step + 1, self.steps, self._seen)
            for call in on_step_end:
                call(self)
            yield step
            if self.stop:
                self.look()
                break

    @property
    def step_seconds(self) -> list[float]:
        """The seconds of each step so far, in every process that took some."""
        return [*self.earlier_seconds, *self.clock.seconds()]

    def finish(self) -> None:
        """Let the methods take off what was only for training; the last to come is the first to go."""
        for method in reversed(self.methods):
            method.on_end(self)
        self.model.eval()

    # -- the step, before any hook ---------------------------------------------------------------------------------

    def _loss(self, batch: Batch) -> torch.Tensor:
        if self.mask_is_idle and not batch.padded:
            return self.criterion(self.model(**mask.without(batch.inputs)), batch)
        return self.criterion((self.forward or self.model)(**batch.inputs), batch)

    def _gradients(self, batch: Batch, scale: float | torch.Tensor) -> torch.Tensor:
        loss = self.loss(batch)
        # `scale` is the gradient of what is minimised by the loss: no extra operation where it is 1.
        loss.backward(None if scale is _ONE else _like(loss, scale))
        return loss.detach()

    def _update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _optimizer(self) -> torch.optim.Optimizer:
        if not self.parameters:
            raise NothingToTrain(f"{self.trainer.name} left no parameter to train")
        for method in self.methods:
            optimizer = method.make_optimizer(self)
            if optimizer is not None:
                self.made_by = method
                return optimizer
        return torch.optim.AdamW(self.groups, fused=True, **self.optimizer_options)

    # -- hooks -----------------------------------------------------------------------------------------------------

    def _wrapped(self, hook: str, inner: Any) -> Any:
        for method in self.methods:
            inner = getattr(method, hook)(self, inner)
        return inner

    def _overriding(self, hook: str) -> list[Callable[..., Any]]:
        return [getattr(method, hook) for method in self.methods if method.overrides(hook)]

    def look(self) -> None:
        """Look at the losses since the last look; waits for the device once.

        Raises:
            Diverged: one is not finite.
        """
        new = self.losses[self._looked :]
        values = torch.stack(new).cpu().tolist() if len(new) > 1 else map(float, new)
        for step, value in enumerate(values, start=self._looked + 1):
            if not math.isfinite(value):
                raise Diverged(f"the loss is {value} at step {step} of {self.steps}")
            self._seen["loss"] = value
        self._looked = len(self.losses)


def _like(loss: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
    """`scale` as a loss's gradient. A number is written there by the device itself: it would wait for a copy."""
    if isinstance(scale, torch.Tensor):
        return scale.to(loss.device, loss.dtype)
    return torch.full_like(loss, scale, requires_grad=False)


def _elements(batch: Batch) -> int:
    """Those of the inputs, padding included."""
    return sum(tensor.numel() for tensor in batch.inputs.values())


class NothingToTrain(Exception):
    """The trainer's ``on_model`` unfroze nothing: it was not applied."""
