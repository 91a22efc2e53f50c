"""A model whose blocks lie on several GPUs, of which one works at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from bench.plan.context import PlanContext
from bench.plan.dividing import at_work
from bench.recipe.errors import Refusal
from bench.recipe.method import Modifier
from bench.stage.evidence import Claim, difference

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training

_LOGITS = 1e-4
"""How far logits may be apart that are the same sums on another GPU."""


@dataclass(frozen=True)
class DeviceMap(Modifier):
    """Place the blocks over `n` GPUs of one process, one GPU at work at a time: the naive model parallel.

    It is the baseline for ``pipeline_parallel``: the memory of several GPUs, the speed of one. The strategies are those
    of transformers' ``device_map=``: "auto" and "balanced", which are the same, fill all GPUs alike, "balanced_low_0"
    leaves the first one free, and "sequential" fills one after the other. The default is two GPUs, the least. Each GPU
    draws its own dropout, so that loss curves are those of one GPU only without. The model is loaded on the first GPU
    and goes back to it after training, for it is evaluated there. The peak of memory is that of the GPU that held
    most; the bytes of gradients, optimizer and activations are of all GPUs together; of throttling, the first GPU's
    clock tells. Built on accelerate: https://huggingface.co/docs/accelerate/concept_guides/big_model_inference
    """

    name = "device_map"
    paper = "https://huggingface.co/docs/accelerate/concept_guides/big_model_inference"
    example = 'full + device_map("auto")'
    needs = ("accelerate",)
    refuses = (
        ("quantized", "packed weights are not known to come through the moves between GPUs; quantize after training"),
    )
    order = 70  # once all weights are there that modifiers add

    strategy: Literal["auto", "balanced", "balanced_low_0", "sequential"] = "auto"
    n: Annotated[int, Ge(2)] = 2

    @property
    def gpus(self) -> int:
        """All of them, of the one process."""
        return self.n

    def problems(self, context: PlanContext) -> Iterator[str]:
        """One process has so many GPUs."""
        if context.stage.layout:
            dividing = " and ".join(modifier.name for modifier in context.stage.modifiers if modifier.axis)
            yield f"one process holds all the GPUs, and {dividing} needs several processes; leave one of them out"
        if context.machine.device != "cuda":
            yield f"it takes {self.n} GPUs, and stages run on the CPU here; leave it out"
        if self._used < 2:
            yield "balanced_low_0 leaves the first GPU free, and one alone is no placement; take n=3, or another strategy"
        for method in at_work(context):
            if method is not self and "devices" not in method.divisible_by:
                yield f"{method.name} is not known to be right on weights of several GPUs; leave one of them out"

    def on_model(self, training: Training) -> None:
        """Place the modules, and have accelerate send the activations after them."""
        from accelerate import dispatch_model

        from bench.models.architecture import unwrapped

        model = unwrapped(training.model)
        places = self._map(model, _room(model, self.n))
        devices = {name: _gpu(number) for name, number in places.items()}
        first = _gpu(min(places.values()))
        dispatch_model(model, devices, main_device=first, skip_keys=model._skip_keys_device_placement)

    def on_end(self, training: Training) -> None:
        """Take accelerate's hooks off, and bring the model back to one GPU."""
        from accelerate.hooks import remove_hook_from_submodules

        from bench.models.architecture import unwrapped

        model = unwrapped(training.model)
        remove_hook_from_submodules(model)
        vars(model).pop("hf_device_map", None)
        for module in model.modules():
            # What accelerate puts back is the class's own, which needs no place in the object.
            if getattr(vars(module).get("forward"), "__func__", None) is type(module).forward:
                del module.forward
        training.model.to(training.device)

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """The weights lie on the GPUs by whole blocks in order, and each block computes where it lies."""
        import torch

        from bench.models.architecture import blocks
        from bench.models.modes import evaluating

        found = list(blocks(work.model))
        of_block = [{parameter.device for parameter in block.parameters()} for block in found]
        numbers = [max(_number(device) for device in devices) for devices in of_block]
        used = {parameter.device for parameter in work.model.parameters()}
        yield Claim(
            f"the weights lie on {self._used} GPUs, by whole blocks in their order",
            len(used) >= self._used and all(len(devices) == 1 for devices in of_block) and numbers == sorted(numbers),
            f"on {len(used)}; blocks on {', '.join(map(str, numbers))}",
        )
        outputs: list[torch.device] = []
        hooks = [block.register_forward_hook(lambda module, args, out: outputs.append(_device(out))) for block in found]
        with evaluating(work.model), torch.no_grad():
            work.outputs(work.probe)
        for hook in hooks:
            hook.remove()
        right = sum(devices == {device} for devices, device in zip(of_block, outputs, strict=True))
        yield Claim("each block computes where it lies", right == len(found), f"{right} of {len(found)}")
        work.state[f"{self.name} end"] = work.after.logits

    def removal_evidence(self, work: Training) -> Iterator[Claim]:
        """The model is a plain one on one GPU, and answers as it did on several."""
        hooked = [name for name, module in work.model.named_modules() if vars(module).keys() & _ACCELERATES]
        devices = {tensor.device for tensor in (*work.model.parameters(), *work.model.buffers())}
        yield Claim(
            "the model is whole again",
            not hooked and len(devices) == 1,
            f"{len(hooked)} modules have hooks, on {len(devices)} GPUs",
        )
        if len(devices) == 1:
            error = difference(work.state.get(f"{self.name} end"), work.probe_logits())
            yield Claim(
                "on one GPU it answers as it did on several",
                error < _LOGITS,
                f"relative difference of logits {error:.1e}",
            )

    @property
    def _used(self) -> int:
        """How many GPUs hold weights, where the model fits."""
        return self.n - (self.strategy == "balanced_low_0")

    def _map(self, model: nn.Module, room: dict[int | str, int]) -> dict[str, int]:
        """The number of the GPU for each module, by accelerate.

        Raises:
            Refusal: some would be on no GPU, or some GPU has none.
        """
        from accelerate import infer_auto_device_map
        from accelerate.utils import get_balanced_memory

        from bench.models.architecture import blocks

        # The model's own list has what else may not be cut, as BERT's embeddings.
        whole = sorted(
            {type(block).__name__ for block in blocks(model)} | set(getattr(model, "_no_split_modules", None) or ())
        )
        if self.strategy != "sequential":
            low = self.strategy == "balanced_low_0"
            room = get_balanced_memory(model, room, no_split_module_classes=whole, low_zero=low)
        places: dict[str, Any] = infer_auto_device_map(model, room, no_split_module_classes=whole)
        if any(not isinstance(place, int) for place in places.values()):
            raise Refusal(f"{self.name}: the model does not fit on {self.n} GPUs; take a larger n")
        if (filled := len(set(places.values()))) < self._used:
            mend = f"take n={filled}" if filled > 1 and self.strategy != "balanced_low_0" else "leave it out"
            raise Refusal(
                f'{self.name}: "{self.strategy}" puts the whole model on {filled} of {self.n} GPUs; {mend}, or take another strategy'
            )
        return places


_ACCELERATES = {"_hf_hook", "_old_forward", "hf_device_map", "to"}
"""What accelerate leaves in a module while it is placed."""


def _gpu(number: int) -> torch.device:
    import torch

    return torch.device("cuda", number)


def _number(device: torch.device) -> int:
    return device.index or 0


def _device(output: Any) -> torch.device:
    found: torch.device = (output if hasattr(output, "device") else output[0]).device
    return found


def _room(model: nn.Module, n: int) -> dict[int | str, int]:
    """The bytes that each GPU has for the model; what holds the first one's now is the model itself."""
    import torch

    from bench.measure.memory import storage_bytes

    room: dict[int | str, int] = {number: torch.cuda.mem_get_info(number)[0] for number in range(n)}
    room[0] += storage_bytes(model)
    return room
