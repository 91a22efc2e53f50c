"""Linear layers of which each process holds a part. Imported inside hooks alone, for it imports torch.

Weights are plain tensors, and DTensor is what they are summed and gathered by. Weights that are DTensors, as
``parallelize_module`` makes them, cannot be in one fused optimizer step with plain ones, and DistributedDataParallel
around them leaves the model without those after its first forward pass (torch 2.13). So a part of a weight is a
parameter that says of what it is one, and stays so where ``fully_shard`` makes shards of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from bench.stage.evidence import is_part, whole


def part(of: torch.Tensor, mesh: DeviceMesh, dim: int) -> nn.Parameter:
    """This process's part of a weight that is divided along `dim` over `mesh`."""
    chunk = of.detach().chunk(mesh.size(), dim)[mesh.get_local_rank()]
    own = nn.Parameter(chunk.clone(memory_format=torch.contiguous_format), requires_grad=of.requires_grad)
    _mark(own, mesh, dim)
    return own


def _mark(part: Any, mesh: DeviceMesh, dim: int) -> None:
    """Say that `part` is one, and of what: its ``full_shape``, and by ``full_tensor()`` the whole of it, for which all
    processes must ask. It may be divided into shards besides.
    """

    def full_tensor() -> torch.Tensor:
        return DTensor.from_local(whole(part.detach()), mesh, [Shard(dim)], run_check=False).full_tensor()

    part.cut = mesh, dim
    part.full_shape = tuple(size * mesh.size() if at == dim else size for at, size in enumerate(part.shape))
    part.full_tensor = full_tensor


@contextlib.contextmanager
def known(model: nn.Module) -> Iterator[None]:
    """Parameters that are put inside in the place of parts are parts too: shards of them, and what is made of those."""
    cuts = {name: parameter.cut for name, parameter in model.named_parameters() if is_part(parameter)}  # type: ignore[attr-defined]
    yield
    for name, parameter in model.named_parameters():
        if name in cuts and not is_part(parameter):
            _mark(parameter, *cuts[name])


class Rows(nn.Linear):
    """A layer that holds some of its inputs' weights: what the processes compute adds up to its output."""

    mesh: DeviceMesh

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Add up, then add the bias once."""
        output = added_up(nn.functional.linear(input, self.weight), self.mesh)
        return output if self.bias is None else output + self.bias.to(output.dtype)


class Shared(nn.Linear):
    """A layer that is whole in each process, before one of which each has some outputs: gradients of it add up."""

    mesh: DeviceMesh

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """What it is, with the weight shared; the input is by whom it comes from."""
        return nn.functional.linear(input, shared(self.weight, self.mesh))


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
    layer.weight = part(layer.weight, mesh, dim)
    layer.out_features, layer.in_features = layer.weight.shape
    if dim == 1:
        layer.__class__ = Rows
        layer.mesh = mesh  # type: ignore[assignment]
    elif layer.bias is not None:
        layer.bias = part(layer.bias, mesh, 0)


def divide_beside(layer: Any, mesh: DeviceMesh, dim: int) -> None:
    """Divide what an adapter of PEFT's has beside a layer that is divided along `dim`.

    LoRA's A has the layer's inputs, and B its outputs: one is divided as it is, and the other whole. (IA)³'s factors
    are of what is divided.
    """
    for down, up in zip(*(getattr(layer, part, {}).values() for part in ("lora_A", "lora_B")), strict=True):
        if dim == 1:
            divide(down, mesh, 1)
        else:
            down.__class__ = Shared
            down.mesh = mesh
            divide(up, mesh, 0)
    for name, factors in getattr(layer, "ia3_l", {}).items():
        layer.ia3_l[name] = part(factors, mesh, dim)


def join(model: nn.Module) -> None:
    """Make every divided layer of `model` a plain one again, in each process."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if is_part(parameter):
                setattr(module, name, nn.Parameter(whole(parameter), requires_grad=parameter.requires_grad))
        if isinstance(module, Rows | Shared):
            module.__class__ = nn.Linear  # type: ignore[assignment]
            del module.mesh
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
