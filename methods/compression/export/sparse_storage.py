"""Storing pruned weights without their zeros."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Lt

from bench.models.names import plain
from bench.plan.context import PlanContext
from bench.recipe.facts import stages_in_effect
from bench.recipe.method import Transform
from bench.stage.evidence import Claim, difference, projection
from methods import _coverage, _refusals
from methods._quantized import casting

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.work import Work
    from methods.compression.export._shared.sparse_linear import SparseLinear


@dataclass(frozen=True)
class SparseStorage(Transform):
    """Hold the pruned linear layers of the blocks without their zeros, in memory and on disk: compressed rows (CSR).

    A weight takes 8 bytes in memory (4 for the number, 4 for its column) and 6 on disk, where a dense float32 takes 4,
    zero or not. So it saves memory from half zeros on, which is the default ``threshold``, and disk from a third on;
    layers with a smaller share of zeros stay dense. Time is another matter: dense kernels are faster until some 90 % are
    zero. Documentation: https://docs.pytorch.org/docs/stable/sparse.html#sparse-csr-tensor
    """

    name = "sparse_storage"
    paper = "https://arxiv.org/abs/1510.00149"
    example = "full >> magnitude(0.9) >> sparse_storage"
    adds = frozenset({"inference_only", "sparse_rows"})
    requires = (("sparse", "no weights are held at zero here; prune first, as in `magnitude(0.9) >> {method}`"),)
    refuses = (("adapter", _refusals.ADAPTER),)

    threshold: Annotated[float, Ge(0), Lt(1)] = 0.5

    def problems(self, context: PlanContext) -> Iterator[str]:
        """There must be zeros enough."""
        yield from casting(context, "a sparse layer has none of that name")
        before = [
            kept
            for stage in stages_in_effect(context.before)
            for method in stage.methods
            for kept in method.maintained()
        ]
        amounts = [getattr(method, "amount", 1.0) for method in before if "sparse" in method.adds]
        if amounts and max(amounts) < self.threshold:
            yield f"{max(amounts):g} of the weights are zero, below the threshold of {self.threshold:g}; prune more or lower it"

    def apply(self, work: Work) -> None:
        """Replace the layers that have zeros enough."""
        from bench.models.architecture import block_linears
        from methods.compression.export._shared.sparse_linear import SparseLinear

        for name, layer in block_linears(work.model).items():
            if _zeros(layer.weight) >= self.threshold:
                work.model.set_submodule(name, SparseLinear(layer))

    def save(self, model: torch.nn.Module, folder: Path) -> bool:
        """As the layers hold it, but with 16 bits a column where that is enough."""
        import torch
        from safetensors.torch import save_file

        from bench.models.architecture import unwrapped
        from methods.compression.export._shared.sparse_linear import SparseLinear

        kept = dict([*model.named_parameters(), *model.named_buffers()])  # tied ones once
        state = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name in kept}
        for name, module in model.named_modules():
            if isinstance(module, SparseLinear) and module.in_features <= 2**16:
                state[f"{name}.columns"] = module.columns.to(torch.uint16)
        save_file(state, folder / "model.safetensors")
        unwrapped(model).config.to_json_file(folder / "config.json")
        return True

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """Layers with enough zeros hold what is not zero and nothing else, byte for byte, and the outputs are the same."""
        import torch

        from methods.compression.export._shared.sparse_linear import SparseLinear

        after = work.after
        sparse = {
            plain(name): module for name, module in work.model.named_modules() if isinstance(module, SparseLinear)
        }
        matrices = {name.removesuffix(".weight") for name in _coverage.matrices(before, work.model)}
        zeros = {
            name: 1 - before.nonzero[f"{name}.weight"] / prod(before.shapes[f"{name}.weight"]) for name in matrices
        }
        # A share that is the threshold but for rounding may count or not.
        wanted = {name for name, share in zeros.items() if share >= self.threshold + 1e-6}
        allowed = {name for name, share in zeros.items() if share >= self.threshold - 1e-6}
        yield Claim(
            f"each layer of which {self.threshold:g} or more is zero is sparse, and no other",
            bool(sparse) and wanted <= sparse.keys() <= allowed,
            f"{len(wanted & sparse.keys())} of {len(wanted)}, {len(sparse.keys() - allowed)} others of {len(matrices)}",
        )
        counts = {name: (before.nonzero[f"{name}.weight"], module) for name, module in sparse.items()}
        exact = [
            name
            for name, (count, layer) in counts.items()
            if layer.values.numel() == layer.columns.numel() == count
            and difference(projection(_dense(layer)), before.projections[f"{name}.weight"]) <= 2e-7
        ]
        yield Claim(
            "they hold what was not zero, where it was, and nothing else",
            0 < len(exact) == len(sparse),
            f"{len(exact)} of {len(sparse)}",
        )
        others = before.digests.keys() - {f"{name}.weight" for name in sparse}
        changed = others - before.same(after)
        yield Claim("nothing else changed", not changed, f"{len(changed)} of {len(others)} other tensors changed")
        off = [0.0]
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for layer in sparse.values():
                inputs = torch.randn(4, layer.in_features, generator=generator).to(layer.values)
                expected = inputs @ _dense(layer).T + (0 if layer.bias is None else layer.bias)
                off.append(float((layer(inputs) - expected).norm() / expected.norm().clamp(min=1e-30)))
        yield Claim(
            "each of them multiplies by that, and adds its bias once",
            max(off) <= 1e-5,
            f"to {max(off):.1g} in {len(sparse)} layers",
        )
        sizes = [
            8 * count + 4 * (m.out_features + 1) - 4 * m.out_features * m.in_features for count, m in counts.values()
        ]
        yield Claim(
            "they take 8 bytes a weight and 4 a row",
            after.bytes == before.bytes + sum(sizes),
            f"{before.bytes:,} → {after.bytes:,} B",
        )
        assert before.logits is not None
        assert after.logits is not None
        norm = torch.linalg.vector_norm
        error = float(norm(before.logits - after.logits) / norm(before.logits))
        yield Claim("the outputs are the dense model's to 1e-5", error <= 1e-5, f"relative difference {error:.1e}")


def _dense(layer: SparseLinear) -> torch.Tensor:
    """For evidence: the weight with its zeros, put together from the parts that the layer holds."""
    import torch

    counts = layer.rows.diff().long()
    rows = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    found = torch.zeros(layer.out_features, layer.in_features, dtype=layer.values.dtype, device=counts.device)
    found[rows, layer.columns.long()] = layer.values
    return found


def _zeros(weight: torch.Tensor) -> float:
    return float((weight == 0).float().mean())
