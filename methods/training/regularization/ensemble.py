"""Ensembles."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le

from bench.models.names import plain
from bench.plan.context import PlanContext
from bench.recipe.declarations import Trait
from bench.recipe.facts import stages_in_effect
from bench.recipe.method import Modifier, Trainer
from bench.stage.evidence import Claim, digest
from methods import _classes, _dropout

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import ComputeGradients, Training
    from bench.stage.work import Work
    from bench.tasks.base import Batch

_ALONE: frozenset[Trait] = frozenset({"prunes_ranks", "stops_early"})
"""What of other methods would reach one member only."""


@dataclass(frozen=True)
class Ensemble(Modifier):
    """Train `k` models side by side on the same batches, and answer with the mean of their probabilities.

    Members start from other values of what is new, head or adapter, and drop out differently. What is frozen they share.
    Each has its own loss and trains as it would alone, at the same rate; the recorded training loss is the members'
    mean. Training and inference take k times as long. Lakshminarayanan et al. use 5 members, and most of the gain is
    there with 3, the default.
    """

    name = "ensemble"
    traits = frozenset({"several_models"})
    paper = "https://arxiv.org/abs/1612.01474"
    example = "full + ensemble(3)"
    order = 80  # around one member's forward and backward pass, and inside of a micro-batch
    adds = frozenset({"ensemble"})
    refuses_beside = (
        ("prunes_ranks", "{other} prunes the ranks of one member only; leave one of the two out"),
        ("stops_early", "{other} stops by the validation loss of one member only; leave one of the two out"),
    )

    k: Annotated[int, Ge(2), Le(1000)] = 3

    def problems(self, context: PlanContext) -> Iterator[str]:
        """The others must reach every member, and something must make members differ."""
        if context.task.generates or not context.task.predicts_classes:
            yield f"it averages the probabilities of a classifier's labels; it is not made for a {context.task.kind} task"
        yield from _classes.one_tensor(context)
        for method in (context.stage.main, *context.stage.modifiers):
            if method is not self and method.overrides("on_end") and not method.traits & _ALONE:
                yield f"{method.name} changes the model that trains, and would change one member only; leave one of the two out"
        for stage in stages_in_effect(context.before):
            for kept in (kept for method in stage.methods for kept in method.maintained()):
                if kept.overrides("on_model", "on_start", "on_step", "on_end"):
                    yield f"{kept.name} holds on to one model's weights in training, and here are several; leave one of the two out"
        if context.trained and not context.stage.main.adds and not _dropout.present(context):
            yield (
                "its members would all be the same: they start from one trained model, and without dropout nothing in "
                "their training differs; put it on the first training"
            )

    def on_model(self, training: Training) -> None:
        """Copy what trains, and give each copy other initial values."""
        import torch

        frozen = {id(p): p for p in training.model.parameters() if not p.requires_grad}
        for number in range(1, self.k):
            member = copy.deepcopy(training.model, dict(frozen))
            _draw_anew(training, member, torch.Generator().manual_seed(training.seed + number))
            training.beside.append(member)

    def on_start(self, training: Training) -> None:
        """Note what each member begins with, for the evidence."""
        training.state[f"{self.name} start"] = [
            {name: digest(p) for name, p in member.named_parameters() if p.requires_grad and p.dim() >= 2}
            for member in (training.model, *training.beside)
        ]

    def wrap_gradients(self, training: Training, compute: ComputeGradients) -> ComputeGradients:
        """One member after the other: each takes the model's place for its forward and backward pass."""
        training.state[self.name] = compute

        def of_all(batch: Batch, scale: float | torch.Tensor) -> torch.Tensor:
            first = training.model
            losses = []
            for member in (first, *training.beside):
                if member.training != first.training:
                    member.train(first.training)
                training.model = member
                losses.append(compute(batch, scale))
            training.model = first
            return sum(losses[1:], losses[0]) / len(losses)

        return of_all

    def on_end(self, training: Training) -> None:
        """Put the members together."""
        from methods.training.regularization._shared.ensemble import Ensemble as Together

        training.model = Together([training.model, *training.beside])

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """Members differ in what trains, share what is frozen, and a step gives each the gradient it would have alone."""
        import torch

        from bench.models.modes import evaluating

        members = [work.model, *work.beside]
        weights = [[p for p in member.parameters() if p.requires_grad] for member in members]
        distinct = {tuple(digest(parameter) for parameter in of_one) for of_one in weights}
        yield Claim(f"{self.k} members differ", len(distinct) == self.k, f"{len(distinct)} different of {len(members)}")
        yield from self._began(work)
        first = dict(members[0].named_parameters())
        copied = [
            name
            for member in members[1:]
            for name, parameter in member.named_parameters()
            if not parameter.requires_grad and parameter is not first[name]
        ]
        yield Claim("they share what is frozen", not copied, f"{len(copied)} tensors are copies")
        sizes = [sum(parameter.numel() for parameter in of_one) for of_one in weights]
        trained = sum(parameter.numel() for parameter in work.parameters)
        yield Claim(
            f"{self.k} times one member's weights train",
            trained == self.k * sizes[0],
            f"{trained:,}, {sizes[0]:,} in one",
        )
        stepped = {id(parameter) for parameter, state in work.optimizer.state.items() if state}
        reached = sum(any(id(parameter) in stepped for parameter in of_one) for of_one in weights)
        yield Claim("the optimizer updates every member", reached == self.k, f"{reached} of {self.k}")
        alone: ComputeGradients = work.state.get(self.name, work.gradients)
        errors, losses = [], []
        with evaluating(work.model):  # dropout would draw differently
            told = float(work.gradients(work.probe, 1.0))
            together = [_take(of_one) for of_one in weights]
            for member, of_one, gradient in zip(members, weights, together, strict=True):
                work.model = member.eval()
                losses.append(float(alone(work.probe, 1.0)))
                own = _take(of_one)
                errors.append(float(torch.linalg.vector_norm(gradient - own) / torch.linalg.vector_norm(own)))
            work.model = members[0]
        limit = 1e-4 if work.compute_dtype == torch.float32 else 3e-2
        yield Claim(
            "a step gives each member the gradient that it has alone",
            max(errors) <= limit,
            f"relative difference {max(errors):.1e}, at most {limit:g}",
        )
        mean = sum(losses) / len(losses)
        yield Claim(
            "the loss that it tells is the members' mean",
            abs(told - mean) <= limit * max(1.0, abs(mean)),
            f"{told:.6g} against {mean:.6g}",
        )
        yield self._drops(work, members)

    def _began(self, work: Training) -> Iterator[Claim]:
        """Each member had values of its own of what is new: of a head that nothing trained before, and of an adapter.

        An adapter may begin with other values where it begins as nothing, some of it being zero.
        """
        from bench.models.architecture import unwrapped

        start: list[dict[str, str]] = work.state.get(f"{self.name} start", [])
        shared = set.intersection(*map(set, start)) if start else set()
        prefix = f"{unwrapped(work.model).base_model_prefix}."
        outside = {name for name in shared if not plain(name).startswith(prefix)}
        trained = any(isinstance(stage.main, Trainer) for stage in stages_in_effect(work.before))
        ranges = work.state.get("start range", {})
        added = {name for name in shared - outside if plain(name) in ranges and "adapter" in work.trainer.adds}
        fixed = {name for name in added if ranges[plain(name)][0] == ranges[plain(name)][1]}
        new = (set() if trained else outside) | (added - fixed if fixed else set())
        alike = [name for name in new if len({of_one[name] for of_one in start}) < self.k]
        yield Claim(
            "each member began with other values of what is new",
            len(start) == self.k and not alike,
            f"{len(new) - len(alike)} of {len(new)} matrices differed in all of {len(start)}",
        )

    def _drops(self, work: Training, members: list[nn.Module]) -> Claim:
        """That no member draws the random numbers that another has drawn, where any are drawn."""
        import torch

        from bench.models.architecture import body

        states: list[tuple[int, str]] = []
        hooks = [
            body(member).register_forward_pre_hook(
                lambda module, args, number=number: states.append((number, _random(work.device)))
            )
            for number, member in enumerate(members)
        ]
        with torch.random.fork_rng():
            work.gradients(work.probe, 1.0)
            after = _random(work.device)
        for hook in hooks:
            hook.remove()
        work.optimizer.zero_grad(set_to_none=True)
        # One member may draw the same again, as in FreeLB, where all passes of a step drop out alike.
        distinct, drawn = len({state for _, state in states}), bool(states) and states[-1][1] != after
        alone = len(set(states)) == distinct
        return Claim(
            "members drop out differently",
            bool(states) and (not drawn or alone),
            f"{distinct} different states of the random numbers in {len(states)} passes, "
            f"{'none' if alone else 'some'} of them in passes of two members",
        )

    def removal_evidence(self, work: Training) -> Iterator[Claim]:
        """What is left is all members, and its probabilities are the mean of theirs."""
        import torch

        from bench.models.architecture import members as of
        from bench.models.modes import evaluating

        members = of(work.model)
        seen = work.probe_logits().double()
        with evaluating(work.model), torch.no_grad():
            outputs = [member(**work.probe.inputs) for member in members]
        mean = _mean_probabilities(work, outputs)
        yield Claim(f"{self.k} members answer", len(members) == self.k, f"{len(members)}")
        error = float((seen.exp() - mean).abs().max())
        yield Claim("with the mean of their probabilities", error <= 1e-5, f"off by {error:.1e} at most")
        # Members that hardly differ would hide another mean.
        drawn = torch.Generator().manual_seed(work.seed)
        for output in outputs:
            output.logits = 3 * torch.randn(output.logits.shape, generator=drawn).to(output.logits)
        hooks = [
            member.register_forward_hook(lambda module, args, output, other=other: other)
            for member, other in zip(members, outputs, strict=True)
        ]
        found = work.probe_logits().double().exp()
        for hook in hooks:
            hook.remove()
        error = float((found - _mean_probabilities(work, outputs)).abs().max())
        yield Claim("and so of random answers of theirs", error <= 1e-5, f"off by {error:.1e} at most")


def _mean_probabilities(work: Work, outputs: Iterable[Any]) -> torch.Tensor:
    """The mean of the members' probabilities on the probe batch, of their `outputs`."""
    import torch

    all_logits = [work.task.logits(each, work.probe) for each in outputs]
    return torch.stack([logits.double().softmax(-1).cpu() for logits in all_logits]).mean(0)


def _random(device: torch.device) -> str:
    """The state of what dropout on `device` draws from."""
    import torch

    state = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
    return digest(state)


def _draw_anew(training: Training, member: nn.Module, generator: torch.Generator) -> None:
    """Other initial values for a copy's new weights: the same numbers in another order, so of the same distribution.

    A head is new where nothing trained before. An adapter's matrices are shuffled only where that leaves the outputs as
    they are, so where another matrix is 0: others are made of something, and not drawn.
    """
    import torch

    from bench.models.architecture import head_parameters, unwrapped
    from bench.models.modes import evaluating

    head = {id(parameter) for parameter in head_parameters(unwrapped(member)).values()}
    new = [p for p in member.parameters() if p.requires_grad and p.dim() >= 2 and p.is_floating_point()]

    @torch.no_grad()
    def shuffle(parameters: list[nn.Parameter]) -> None:
        for parameter in parameters:
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order.to(parameter.device)].view_as(parameter))

    if "adapter" in training.trainer.adds:
        adapter = [parameter for parameter in new if id(parameter) not in head]
        with evaluating(member), torch.no_grad():
            before, values = member(**training.probe.inputs).logits, [parameter.clone() for parameter in adapter]
            shuffle(adapter)
            if not torch.allclose(before, member(**training.probe.inputs).logits, atol=1e-5):
                for parameter, value in zip(adapter, values, strict=True):
                    parameter.copy_(value)
    if not any(isinstance(stage.main, Trainer) for stage in stages_in_effect(training.before)):
        shuffle([parameter for parameter in new if id(parameter) in head])


def _take(parameters: list[nn.Parameter]) -> torch.Tensor:
    """The gradient as one vector, taken away from the parameters."""
    import torch

    found = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten().float() for p in parameters])
    for parameter in parameters:
        parameter.grad = None
    return found
