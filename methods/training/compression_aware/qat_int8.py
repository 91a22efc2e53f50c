"""Training for 8 bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.plan.context import PlanContext
from bench.recipe.method import Modifier
from bench.stage.evidence import Claim
from methods._models import linear_blocks

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training


@dataclass(frozen=True)
class QatInt8(Modifier):
    """Round weights and activations of the blocks' linear layers to 8 bits while training, as if quantized already.

    The weights learn to stand the rounding: gradients pass it as if it were not there, and the weights stay float32.
    In evaluation and after training the rounding is off, so what comes then must quantize, as in
    ``full + qat_int8 >> torchao_int8_dynamic``, which rounds in the same way: each row of a weight, and each token, to 256
    steps. Built on ``torch.fake_quantize_per_channel_affine``.
    """

    name = "qat_int8"
    paper = "https://arxiv.org/abs/1712.05877"
    example = "full + qat_int8 >> torchao_int8_dynamic"
    refuses_beside = (
        (
            "compiles",
            "compiled code rounds some values to the neighbouring code, so its gradient cannot be held against "
            "eager code's; leave out {other}",
        ),
    )
    order = -10  # layers are changed before anything is wrapped around the model

    def problems(self, context: PlanContext) -> Iterator[str]:
        """The weights that are rounded must be those that train."""
        trainer: Any = context.stage.main
        yield from linear_blocks(context)
        if not trainer.updates_all_weights:
            yield f"{trainer.name} does not train the weights that would be rounded; train all of them, as `full` does"

    def on_model(self, training: Training) -> None:
        """Let the blocks' linear layers round. They stay the same objects, with the same parameters."""
        from bench.models.architecture import block_linears
        from methods.training.compression_aware._shared.fake_quantization import FakeInt8Linear

        for layer in block_linears(training.model).values():
            layer.__class__ = FakeInt8Linear

    def on_end(self, training: Training) -> None:
        """Make them plain again."""
        import torch

        from methods.training.compression_aware._shared.fake_quantization import FakeInt8Linear

        for module in training.model.modules():
            if isinstance(module, FakeInt8Linear):
                module.__class__ = torch.nn.Linear  # type: ignore[assignment]

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """In training each of the layers gives the product of int8 codes, with its gradient; in evaluation plain products."""
        import torch

        from bench.models.architecture import block_linears

        layers = block_linears(work.model)
        errors: dict[str, float] = {}
        wanted: dict[str, torch.Tensor] = {}

        def watch(path: str, layer: torch.nn.Linear) -> Any:
            def hook(module: torch.nn.Module, args: Any, output: torch.Tensor) -> None:
                with torch.no_grad():
                    product = _product(args[0], layer)
                    error = torch.linalg.vector_norm(output.double() - product) / torch.linalg.vector_norm(product)
                errors[path] = max(errors.get(path, 0.0), float(error))
                if output.requires_grad:
                    given = args[0].detach()
                    output.register_hook(lambda slope: _add(wanted, path, _weight_slope(slope, given, layer)))

            return layer.register_forward_hook(hook)

        hooks = [watch(path, layer) for path, layer in layers.items()]
        with torch.random.fork_rng():
            work.loss(work.probe).backward()
        for hook in hooks:
            hook.remove()
        reached = 0
        for path, layer in layers.items():
            slope = layer.weight.grad
            if slope is not None and bool(slope.any()) and path in wanted:
                off = float((slope.double() - wanted[path]).norm() / wanted[path].norm())
                reached += off <= (1e-3 if work.compute_dtype == torch.float32 else 5e-2)
        work.optimizer.zero_grad(set_to_none=True)
        limit = 1e-4 if work.compute_dtype == torch.float32 else 1e-2
        right = sum(error <= limit for error in errors.values())
        yield Claim(
            "in training each of the blocks' linear layers gives the product of int8 codes",
            bool(layers) and right == len(layers),
            f"{right} of {len(layers)}, relative difference at most {max(errors.values(), default=0):.1e}",
        )
        yield Claim(
            "gradients pass the rounding as if it were not there",
            reached == len(layers),
            f"so they reach {reached} of {len(layers)} weights",
        )
        rounds: list[str] = []

        def look(path: str) -> Any:
            def hook(module: Any, args: Any, output: torch.Tensor) -> None:
                plain = torch.nn.functional.linear(args[0], module.weight, module.bias)
                if not torch.allclose(output, plain, rtol=1e-5, atol=1e-6):
                    rounds.append(path)

            return hook

        hooks = [layer.register_forward_hook(look(path)) for path, layer in layers.items()]
        work.probe_logits()
        for hook in hooks:
            hook.remove()
        yield Claim("in evaluation nothing is rounded", not rounds, f"{len(set(rounds))} of {len(layers)} layers round")

    def removal_evidence(self, work: Training) -> Iterator[Claim]:
        """The layers are plain ones."""
        import torch

        from bench.models.architecture import block_linears

        left = [path for path, layer in block_linears(work.model).items() if type(layer) is not torch.nn.Linear]
        yield Claim("nothing rounds any more", not left, f"{len(left)} layers are not plain")


def _add(sums: dict[str, torch.Tensor], path: str, more: torch.Tensor) -> None:
    sums[path] = sums[path] + more if path in sums else more


def _weight_slope(slope: torch.Tensor, inputs: torch.Tensor, layer: torch.nn.Linear) -> torch.Tensor:
    """The gradient of a layer's weight: of its output's with the rounded tokens, but for what lies beyond the codes."""
    import torch

    def rounding(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = tensor.detach().float().reshape(-1, tensor.shape[-1])
        step = (rows.abs().amax(1, keepdim=True) / 127.5).clamp(min=torch.finfo(torch.float32).eps)
        return (rows * (1 / step)).round(), step

    codes, step = rounding(inputs)
    tokens = (codes.clamp(-128, 127) * step).double()
    beyond = rounding(layer.weight)[0] > 127
    return (slope.double().reshape(-1, slope.shape[-1]).T @ tokens).masked_fill(beyond, 0.0)


def _product(inputs: torch.Tensor, layer: torch.nn.Linear) -> torch.Tensor:
    """What ``torchao_int8_dynamic`` would give: a product of integers, the scales of tokens and channels, and the bias."""
    import torch

    def codes(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = tensor.float().reshape(-1, tensor.shape[-1])
        step = (rows.abs().amax(1, keepdim=True) / 127.5).clamp(min=torch.finfo(torch.float32).eps)
        # Times the inverse, as the kernels do: the largest lies halfway between two codes.
        return (rows * (1 / step)).round().clamp(-128, 127).double(), step.double()

    (tokens, token_steps), (weights, weight_steps) = codes(inputs), codes(layer.weight)
    product = tokens @ weights.T * token_steps * weight_steps.T
    if layer.bias is not None:
        product = product + layer.bias
    return product.view(*inputs.shape[:-1], -1)
