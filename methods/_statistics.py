"""Statistics of the data that methods calibrate on. Padding never counts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from methods._calibration import Calibration

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.stage.work import Work
    from bench.tasks.base import Batch


def batches(work: Work, calibration: Calibration) -> Iterator[Batch]:
    """Whole batches of its data, the same ones each time in a stage, until its samples are in them."""
    return itertools.islice(calibration.batches(work), -(-calibration.samples // work.budget.batch_size))


def observe(
    work: Work,
    modules: Mapping[str, nn.Module],
    calibration: Calibration,
    see: Callable[[str, torch.Tensor, torch.Tensor], None],
) -> None:
    """Run the model in evaluation mode and let `see` a module's name, its inputs and its outputs, a row a token."""
    import torch

    from bench.models.modes import evaluating

    mask: torch.Tensor | None = None

    def rows(value: Any) -> torch.Tensor:
        tensor: torch.Tensor = value[0] if isinstance(value, tuple) else value
        padded = mask is not None and tensor.shape[:-1] == mask.shape
        return (tensor[mask] if padded else tensor.reshape(-1, tensor.shape[-1])).float()

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
            see(name, rows(args or options["hidden_states"]), rows(output))

        return module.register_forward_hook(hook, with_kwargs=True)

    hooks = [watch(name, module) for name, module in modules.items()]
    try:
        with evaluating(work.model), torch.no_grad():
            for batch in batches(work, calibration):
                found = batch.inputs.get("attention_mask")
                # Of items that are several texts, the model makes that many items.
                mask = None if found is None else found.bool().flatten(0, -2)
                work.outputs(batch)
    finally:
        for handle in hooks:
            handle.remove()


def collect(
    work: Work,
    layers: Mapping[str, nn.Linear],
    calibration: Calibration,
    measure: Callable[[torch.Tensor], torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Of each layer, the sum over all batches of `measure` of its inputs ``[tokens, in_features]``."""
    sums: dict[str, torch.Tensor] = {}

    def see(name: str, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        found = measure(inputs)
        sums[name] = sums[name] + found if name in sums else found

    observe(work, layers, calibration, see)
    return sums


def gradients(work: Work, samples: int) -> None:
    """Leave in every parameter the gradient of the task's criterion on training items, in evaluation mode: no dropout, no draw."""
    import torch

    from bench.models.modes import evaluating

    work.model.requires_grad_(True)
    work.model.zero_grad(set_to_none=True)
    with evaluating(work.model), torch.enable_grad():
        for batch in batches(work, Calibration(samples)):
            work.task.criterion(work.outputs(batch), batch).backward()
