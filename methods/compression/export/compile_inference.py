"""Compiling the model that serves."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.metrics.metric import Metric, last
from bench.plan.context import PlanContext
from bench.recipe.method import Transform
from bench.stage.evidence import Claim
from methods import _compiler

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.work import Work


COMPILE_SECONDS = Metric(
    "inference_compile_seconds",
    "Compile time, inference",
    "s",
    "lower",
    "time",
    "wall time that torch.compile takes, with empty caches, over all shapes and numbers of threads at which latency is "
    "measured; it is in warm-ups only; the most of all processes",
    last("inference", "compile_seconds"),
    about="compression",
)


@dataclass(frozen=True)
class CompileInference(Transform):
    """Compile the model for inference with ``torch.compile``.

    Sizes are compiled as unknowns (``dynamic=True``), so that one graph serves all lengths and no shape that is measured
    has an advantage over the next. On a GPU, "reduce-overhead" and "max-autotune" record CUDA graphs, before the clock
    starts; decoders are refused these, for a graph's next pass overwrites the cache. A compiled model cannot be stored: the processes that measure inference compile it
    anew, from empty caches, and the time of that is a figure of its own. On a CPU the compiler's code stays in the
    process and counts in inference memory. Documentation:
    https://docs.pytorch.org/docs/stable/generated/torch.compile.html
    """

    name = "compile_inference"
    paper = "https://docs.pytorch.org/assets/pytorch2-2.pdf"
    example = "full >> compile_inference"
    needs = ("torch._inductor.compile_fx",)
    tolerates = frozenset({"half", "inference_only"})
    refuses = (
        ("exported", "another runtime than torch runs the model, which compiles it in its own way"),
        (
            "sparse_rows",
            "torch.compile has no kernels for compressed rows; leave out sparse_storage, and the zeros stay dense",
        ),
    )
    adds = frozenset({"inference_only"})

    mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"

    def problems(self, context: PlanContext) -> Iterator[str]:
        """Kernels are built by the machine's own compiler."""
        yield from _compiler.problems(context, self.mode)
        if context.task.generates and _compiler.records(context.machine.device, self.mode):
            yield (
                f'mode "{self.mode}" records CUDA graphs, of which each pass overwrites what the one before it gave, '
                "and that is the cache of keys and values that the next token is made from; leave the mode out"
            )

    def apply(self, work: Work) -> None:
        """Compile, so that the evaluation too is the compiled model's."""
        self._compile(work.model)

    def on_serve(self, model: torch.nn.Module, folder: Path) -> None:
        """Compile again, with nothing in the compiler's cache."""
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
        self._compile(model)
        model.recordings = _compiler.Recordings()  # type: ignore[assignment]

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """A forward pass runs compiled graphs, and gives what eager code gives."""
        import torch

        earlier = _graphs()
        after = work.after
        yield _compiled(_graphs() - earlier)
        yield _inside(work)
        assert before.logits is not None
        assert after.logits is not None
        norm = torch.linalg.vector_norm
        error = float(norm(before.logits - after.logits) / norm(before.logits))
        # Compiled code sums in another order. That shows in the last bits, which are many in half precision, and where
        # it moves an activation over an edge between two integers.
        half = {parameter.dtype for parameter in work.model.parameters()} & {torch.bfloat16, torch.float16}
        limit = 5e-2 if half or "quantized" in work.facts else 1e-4
        yield Claim("compiled equals eager", error <= limit, f"relative difference {error:.1e}, at most {limit:g}")
        same = before.digests == after.digests
        yield Claim("no weight changed", same, f"{len(before.changed(after))} changed")

    def serving_evidence(self, model: torch.nn.Module) -> Iterator[Claim]:
        """What was measured ran compiled graphs, and CUDA's were recorded before."""
        from bench.models.modes import device_of

        yield _compiled(_graphs())
        if _compiler.records(device_of(model).type, self.mode):
            found = getattr(model, "recordings", None)
            yield _compiler.recorded(found, found.late if found else 0)

    def _compile(self, model: torch.nn.Module) -> None:
        import torch
        from torch._dynamo.utils import counters

        # What this process compiled before would count towards the recompilations after which torch goes on uncompiled.
        torch.compiler.reset()
        counters.clear()
        model.eval()
        with warnings.catch_warnings():
            # What torch's compiler says of other parts of torch when it is first imported.
            warnings.simplefilter("ignore", DeprecationWarning)
            model.compile(dynamic=True, mode=self.mode)


def _compiled(graphs: int) -> Claim:
    return Claim("a forward pass runs compiled graphs", graphs > 0, f"{graphs} graphs compiled")


def _graphs() -> int:
    """How many graphs this process has compiled."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def _inside(work: Work) -> Claim:
    """Of one forward pass: the compiler's own graphs are called, and every product is made in one of them."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work.probe_logits()
    events = profiled.events() or ()
    called = sum(_is_graph(event) for event in events)
    products = [event for event in events if event.name.startswith(_PRODUCTS)]
    inside = 0
    for event in products:
        above = event
        while above is not None and not _is_graph(above):
            above = above.cpu_parent
        inside += above is not None
    return Claim(
        "each product of a forward pass is made in a graph of the compiler's",
        called > 0 and inside == len(products),
        f"{called} graphs called, {inside} of {len(products)} products in them",
    )


def _is_graph(event: Any) -> bool:
    """How Inductor marks the call of what it compiled, where a profiler looks."""
    return bool(event.name.startswith("## Call CompiledFxGraph"))


_PRODUCTS = ("aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm", "aten::_scaled_dot_product", "aten::_efficient")
"""How torch's products of matrices are called where a profiler looks."""
