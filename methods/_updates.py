"""One more step of a training's optimizer, as evidence looks at it: taken, and taken back. No torch until it is called."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from bench.stage.loop import Training


@contextlib.contextmanager
def taken_back(work: Training) -> Iterator[None]:
    """Weights, the optimizer's state, its options and its hooks are afterwards as they were; gradients are gone."""
    import torch

    optimizer = work.optimizer
    weights = [parameter.detach().clone() for parameter in work.parameters]
    # The step works on copies: what the tensors of a state share in memory they share afterwards too.
    states = {parameter: dict(state) for parameter, state in optimizer.state.items()}
    for parameter, state in states.items():
        optimizer.state[parameter] = {
            name: value.clone() if torch.is_tensor(value) else value for name, value in state.items()
        }
    options = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    hooks = [getattr(optimizer, name) for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")]
    kept = [dict(table) for table in hooks]
    for table in hooks:
        table.clear()
    try:
        yield
    finally:
        work.optimizer.zero_grad(set_to_none=True)
        for table, before in zip(hooks, kept, strict=True):
            table.update(before)
        for group, before in zip(optimizer.param_groups, options, strict=True):
            group.update(before)
        with torch.no_grad():
            for parameter, was in zip(work.parameters, weights, strict=True):
                parameter.copy_(was)
        optimizer.state.clear()
        optimizer.state.update(states)


def moves(
    work: Training, gradient: Callable[[torch.Tensor], torch.Tensor], **options: Any
) -> tuple[list[torch.Tensor], dict[torch.Tensor, dict[str, Any]]]:
    """By how much a step with `gradient` and these options moves each trained weight, and the state after it."""
    with taken_back(work):
        before = [parameter.detach().clone() for parameter in work.parameters]
        for group in work.optimizer.param_groups:
            group.update(options)
        for parameter in work.parameters:
            parameter.grad = gradient(parameter)
        work.optimizer.step()
        found = [parameter.detach() - was for parameter, was in zip(work.parameters, before, strict=True)]
        return found, {parameter: dict(state) for parameter, state in work.optimizer.state.items()}
