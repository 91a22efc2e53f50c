"""Linear layers of which each process holds a part. Imported inside hooks alone, for it imports torch.

Weights are plain tensors, and DTensor is what they are summed and gathered by. Weights that are DTensors, as
``parallelize_module`` makes them, cannot be in one fused optimizer step with plain ones, and DistributedDataParallel
around them leaves the model without those after its first forward pass (torch 2.13).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard


class Part(nn.Parameter):
    """This process's part of a weight that is divided along `dim` over `mesh`."""

    mesh: DeviceMesh
    dim_divided: int

    @classmethod
    def of(cls, whole: torch.Tensor, mesh: DeviceMesh, dim: int) -> Part:
        """Cut it out of the whole weight."""
        chunk = whole.detach().chunk(mesh.size(), dim)[mesh.get_local_rank()]
        part = cls(chunk.clone(memory_format=torch.contiguous_format), requires_grad=whole.requires_grad)
        part.mesh, part.dim_divided = mesh, dim
        return part

    def full_tensor(self) -> torch.Tensor:
        """The whole weight; all processes must ask for it."""
        placed = DTensor.from_local(self.detach(), self.mesh, [Shard(self.dim_divided)], run_check=False)
        return placed.full_tensor()

    @property
    def full_shape(self) -> tuple[int, ...]:
        """The whole weight's."""
        parts = self.mesh.size()
        return tuple(size * parts if dim == self.dim_divided else size for dim, size in enumerate(self.shape))


class Rows(nn.Linear):
    """A layer that holds some of its inputs' weights: what the processes compute adds up to its output."""

    mesh: DeviceMesh

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Add up, then add the bias once."""
        output = added_up(nn.functional.linear(input, self.weight), self.mesh)
        return output if self.bias is None else output + self.bias.to(output.dtype)


def added_up(tensor: torch.Tensor, mesh: DeviceMesh) -> torch.Tensor:
    """The sum over all processes, whose gradient is each one's: the paper's g."""
    return DTensor.from_local(tensor, mesh, [Partial()], run_check=False).full_tensor()


def shared(tensor: torch.Tensor, mesh: DeviceMesh) -> torch.Tensor:
    """The same tensor, whose gradient is the sum over all processes: the paper's f."""
    return DTensor.from_local(tensor, mesh, [Replicate()], run_check=False).to_local(grad_placements=[Partial()])


class Sharing:
    """Called before a module whose layers hold some of their outputs' weights each: its input is shared."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self.mesh = mesh

    def __call__(self, module: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, Any]:
        if args:
            return (shared(args[0], self.mesh), *args[1:]), named
        return args, {**named, "hidden_states": shared(named["hidden_states"], self.mesh)}


def divide(layer: nn.Linear, mesh: DeviceMesh, dim: int) -> None:
    """Keep this process's part of `layer`: of its outputs (`dim` 0) or of its inputs (1)."""
    layer.weight = Part.of(layer.weight, mesh, dim)
    layer.out_features, layer.in_features = layer.weight.shape
    if dim == 1:
        layer.__class__ = Rows
        layer.mesh = mesh  # type: ignore[assignment]
    elif layer.bias is not None:
        layer.bias = Part.of(layer.bias, mesh, 0)


def join(model: nn.Module) -> None:
    """Make every divided layer of `model` a plain one again, in each process."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, Part):
                setattr(module, name, nn.Parameter(parameter.full_tensor(), requires_grad=parameter.requires_grad))
        if isinstance(module, Rows):
            module.__class__ = nn.Linear  # type: ignore[assignment]
            del module.mesh
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
