"""Fully sharded data parallel training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from bench.plan.context import PlanContext
from bench.recipe.method import Modifier
from bench.stage.evidence import Claim, whole
from methods.training.parallel._shared import divided_training

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import ComputeGradients, Training


@dataclass(frozen=True)
class FullySharded(Modifier):
    """Divide parameters, gradients and optimizer state among `n` processes, each with its own slice of every batch.

    Each block's weights are gathered just before they are used and let go right after, in the forward and in the
    backward pass, and its gradients are summed where their shard is; so too with what is outside of the blocks. This
    happens for every micro-batch of ``accumulate``, since whole gradients are what must not be held. ``offload`` keeps
    the shards in the CPU's memory, where the optimizer's step then is. ``budget.batch_size`` is the batch over all
    processes. With ``data_parallel(r)`` there are r replicas of the n shards, which exchange their gradients. Built on
    FSDP2: https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
    """

    name = "fully_sharded"
    paper = "https://arxiv.org/abs/2304.11277"
    example = "full + fully_sharded(2)"
    refuses = (
        ("quantized", "packed weights cannot be divided by rows; train replicas of the model with data_parallel"),
    )
    axis = "shards"
    order = 80  # inside of accumulate, whose micro-batches it divides; outside of what changes the loss

    n: Annotated[int, Ge(1)]
    offload: bool = False

    @property
    def processes(self) -> int:
        """One for each shard."""
        return self.n

    def problems(self, context: PlanContext) -> Iterator[str]:
        """It offloads from a GPU."""
        if self.offload and context.machine.device == "cpu":
            yield "offload moves shards from a GPU to the CPU's memory, and here they are there; leave it out"

    def on_model(self, training: Training) -> None:
        """Shard each block, and then what is left."""
        from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

        from bench.models.architecture import blocks
        from methods.training.parallel._shared import tensors

        assert training.group.mesh is not None
        mesh = training.group.mesh[("replicas", "shards") if "replicas" in training.group.layout else "shards"]
        policy = CPUOffloadPolicy() if self.offload else OffloadPolicy()
        with tensors.known(training.model):
            for module in (*blocks(training.model), training.model):
                fully_shard(module, mesh=mesh, reshard_after_forward=True, offload_policy=policy)

    def wrap_gradients(self, training: Training, compute: ComputeGradients) -> ComputeGradients:
        """Take this process's slice."""
        return divided_training.sliced(training, self.name, "shards", compute)

    def on_end(self, training: Training) -> None:
        """Gather the weights, and make plain modules of the sharded ones."""
        from methods.training.parallel._shared import tensors

        gathered: dict[int, nn.Parameter] = {}  # tied ones stay tied
        with tensors.known(training.model):
            for module in training.model.modules():
                for name, parameter in list(module.named_parameters(recurse=False)):
                    if id(parameter) not in gathered:
                        gathered[id(parameter)] = _plain(parameter, training.device)
                    setattr(module, name, gathered[id(parameter)])
        for module in training.model.modules():
            _unwrap(module)

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """The processes have different items, and hold an n-th each of weights, gradients and optimizer state."""
        from bench.measure.wire import Wire
        from bench.models.architecture import blocks

        yield from divided_training.claims(work, self.name, "shards")
        assert work.after.digests  # of what is divided now, for a claim about what is gathered then
        weights = list(work.model.parameters())
        rank = work.group.local_rank("shards")
        right = sum(_is_shard(weight, self.n, rank) for weight in weights)
        yield Claim(
            f"weights are divided into {self.n}", right == len(weights), f"{right} of {len(weights)} tensors, by rows"
        )
        with divided_training.items(work.model) as passes, Wire(work.group.processes("shards")) as wire:
            work.gradients(work.probe, 1.0)
        held = [weight.grad for weight in work.parameters if weight.grad is not None]
        held += [
            value
            for state in work.optimizer.state.values()
            for value in state.values()
            if hasattr(value, "dim") and value.dim() > 0
        ]
        right = sum(_is_shard(tensor, self.n, rank) for tensor in held)
        work.optimizer.zero_grad(set_to_none=True)
        yield Claim(
            "gradients and optimizer state are divided too", right == len(held) > 0, f"{right} of {len(held)} tensors"
        )
        calls = [what for (what, _, _), count in wire.calls.items() for _ in range(count)]
        gathered, reduced = calls.count("all_gather"), calls.count("reduce_scatter")
        several = self.n > 1
        units = len(blocks(work.model)) + 1
        # In a backward pass those are gathered again that give gradients, and those that these go through.
        forward = len(passes) * units
        yield Claim(
            "block by block weights are gathered to be used, in either direction, and gradients scattered"
            if several
            else "the one shard is the whole, and nothing is gathered or scattered",
            forward + reduced <= gathered <= 2 * forward and reduced > 0 if several else gathered == reduced == 0,
            f"{gathered} gathers and {reduced} scatters in {len(passes)} passes through {units} parts",
        )

    def removal_evidence(self, work: Training) -> Iterator[Claim]:
        """The model is a plain one, and the same everywhere."""
        from torch.distributed.fsdp import FSDPModule

        from bench.stage.evidence import digest

        left = [name for name, module in work.model.named_modules() if isinstance(module, FSDPModule)]
        parts = [name for name, parameter in work.model.named_parameters() if hasattr(parameter, "full_tensor")]
        yield Claim(
            "the model is whole again",
            not left and not parts,
            f"{len(left)} modules and {len(parts)} weights are sharded",
        )
        gathered = [] if parts else work.group.all_gather([digest(parameter) for parameter in work.model.parameters()])
        yield Claim(
            "all processes gathered the same weights", len(set(map(tuple, gathered))) == 1, f"{len(gathered)} processes"
        )
        if not left and not parts:
            yield divided_training.same_weights(work)
            yield from divided_training.whole_gradient(work, self.name)


def _is_shard(tensor: Any, n: int, rank: int) -> bool:
    """Whether `tensor` holds its process's chunk of the rows of a whole one, and no more."""
    import torch

    if not hasattr(tensor, "to_local"):
        return False
    chunks = torch.empty(tensor.shape[0], device="meta").chunk(n)
    rows = len(chunks[rank]) if rank < len(chunks) else 0
    return tuple(tensor.to_local().shape) == (rows, *tensor.shape[1:])


def _plain(parameter: Any, device: torch.device) -> nn.Parameter:
    import torch

    return torch.nn.Parameter(whole(parameter.detach()).to(device), requires_grad=parameter.requires_grad)


def _unwrap(module: Any) -> None:
    """Take FSDP's hooks, state and class off; torch has nothing that does."""
    from torch.distributed._composable.contract import REGISTRY_KEY, STATE_KEY
    from torch.distributed.fsdp import FSDPModule

    tables = [table for name, table in vars(module).items() if "_hooks" in name and isinstance(table, dict)]
    for key in [key for table in tables for key, hook in table.items() if _of_fsdp(hook)]:
        for table in tables:
            table.pop(key, None)
    for key in (STATE_KEY, REGISTRY_KEY, "_is_fsdp_managed_module", "_fsdp_use_orig_params"):
        vars(module).pop(key, None)
    if isinstance(module, FSDPModule):
        module.__class__ = type(module).__mro__[2]  # after FSDPLinear and FSDPModule: Linear


def _of_fsdp(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("torch.distributed.fsdp.")
