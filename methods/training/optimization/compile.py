"""Compiling the model that trains."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bench.metrics.metric import Metric, of_method
from bench.plan.context import PlanContext
from bench.recipe.method import Modifier
from bench.stage.evidence import Claim
from methods import _compiler

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training
    from bench.tasks.base import Batch

_SHAPES = 8
"""How many shapes of batches are gone through before the clock starts."""

_PASSES = 3
"""Where CUDA graphs are recorded: the first runs as any other, the second records, the third shows that it did."""

_SEVERAL = ("wrap_loss", "wrap_gradients", "transform_batch")
"""Hooks that can run the model more than once in a step, or change the batches' shapes."""

"""Those with such a hook that run one pass a step, on batches as they come."""


COMPILE_SECONDS = Metric(
    "compile_seconds",
    "Compile time",
    "s",
    "lower",
    "time",
    "wall time before the first step of capturing and compiling the model's graphs, with empty caches, and of running "
    "them once for some of the batches' shapes; the sum over all training stages",
    of_method("compile_seconds"),
    about="training",
)


@dataclass(frozen=True)
class Compile(Modifier):
    """Compile the model's forward and backward pass with ``torch.compile``, before the clock starts.

    Sizes are compiled as unknowns (``dynamic=True``), so that batches of other lengths need no other graphs; a few
    batches of different shapes are gone through first to see to that. On a GPU, "reduce-overhead" and "max-autotune"
    record CUDA graphs, one for each shape, so every shape of the training is gone through. Compiling starts with empty
    caches and its time, recording included, is a figure of its own. On a CPU the compiler's code stays in the process, and counts in training memory. The model
    is given back uncompiled. Documentation: https://docs.pytorch.org/docs/stable/generated/torch.compile.html
    """

    name = "compile"
    traits = frozenset({"compiles"})
    paper = "https://doi.org/10.1145/3620665.3640366"
    example = "full + compile"
    needs = ("torch._inductor.compile_fx",)
    figures = ("compile_seconds",)
    begins_anew = "graphs that are compiled once more may round otherwise"
    order = 100  # after all that wraps or changes the model

    mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"

    def problems(self, context: PlanContext) -> Iterator[str]:
        """Kernels are built by the machine's own compiler."""
        yield from _compiler.problems(context, self.mode)
        if _compiler.records(context.machine.device, self.mode):
            for method in context.stage.methods:
                if "one_pass" not in method.traits and method.overrides(*_SEVERAL):
                    yield (
                        f'mode "{self.mode}" records CUDA graphs, of which each pass overwrites what the one before it '
                        f"gave, and {method.name} may run several passes in a step, or other shapes; leave the mode out"
                    )

    def on_start(self, training: Training) -> None:
        """Compile, and go through batches of different shapes, so that no clock ever waits for the compiler."""
        import torch

        with warnings.catch_warnings():
            # What torch's compiler says of other parts of torch when it is first imported.
            warnings.simplefilter("ignore", DeprecationWarning)
            import torch._inductor.compile_fx
            from torch._inductor.utils import fresh_cache
        records = _compiler.records(training.device.type, self.mode)
        batches = _shapes(training, None) * _PASSES if records else _shapes(training)
        began = time.perf_counter()
        # Caches that something else has filled would make the time say nothing.
        torch.compiler.reset()
        training.state[f"{self.name} recordings"] = recorded = _compiler.Recordings()
        with fresh_cache(), torch.random.fork_rng():
            training.model.compile(dynamic=True, mode=self.mode)
            for batch in batches:
                training.gradients(batch, 1.0)
                training.optimizer.zero_grad(set_to_none=True)
        if training.device.type == "cuda":
            torch.cuda.synchronize()
        training.figures["compile_seconds"] = time.perf_counter() - began
        training.state[self.name] = [(_graphs(), recorded.count)]

    def on_step_end(self, training: Training) -> None:
        """Count the graphs that there are after each step, and those of CUDA that were recorded."""
        recorded = training.state.get(f"{self.name} recordings")
        training.state.setdefault(self.name, []).append((_graphs(), recorded.count if recorded else 0))

    def on_end(self, training: Training) -> None:
        """Take the compiled code off."""
        training.model._compiled_call_impl = None
        if recorded := training.state.get(f"{self.name} recordings"):
            recorded.close()

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """The loss comes out of compiled graphs, all made before the first step, with the gradient of eager code."""
        import torch

        from bench.models.modes import evaluating

        with torch.random.fork_rng(), torch.compiler.set_stance("default"):
            names = _nodes(work.loss(work.probe))
        compiled = sum("CompiledFunction" in name for name in names)
        yield Claim(
            "the loss comes out of compiled graphs",
            compiled > 0,
            f"{compiled} graphs, {len(names) - compiled} other steps",
        )

        eager = [_gradient(work, seed) for seed in (0, 1)]
        if torch.equal(*eager):
            with torch.compiler.set_stance("default"):
                ours = _gradient(work, 0)
        else:  # dropout: compiled code draws differently, so it is compared without
            with evaluating(work.model):
                eager = [_gradient(work, 0)]
                with torch.compiler.set_stance("default"):
                    ours = _gradient(work, 0)
        error = float(torch.linalg.vector_norm(ours - eager[0]) / torch.linalg.vector_norm(eager[0]))
        limit = 1e-3 if work.compute_dtype == torch.float32 else 3e-2
        yield Claim(
            "the gradient is that of eager code", error <= limit, f"relative difference {error:.1e}, at most {limit:g}"
        )

        counts = work.state.get(self.name) or [(0, 0)]
        steps = len(work.losses)
        late, recorded_late = (last - first for first, last in zip(counts[0], counts[-1], strict=True))
        yield Claim(
            "every graph was compiled before the first step",
            len(counts) == steps + 1 and not late,
            f"{counts[0][0]} before it, {late} in {len(counts) - 1} of {steps} steps",
        )
        if _compiler.records(work.device.type, self.mode):
            yield _compiler.recorded(work.state.get(f"{self.name} recordings"), recorded_late)

    def removal_evidence(self, work: Training) -> Iterator[Claim]:
        """No module runs compiled code."""
        left = [name for name, module in work.model.named_modules() if module._compiled_call_impl is not None]
        yield Claim("no compiled code is left", not left, f"{len(left)} modules have it")


def _shapes(training: Training, most: int | None = _SHAPES) -> list[Batch]:
    """Batches of the training's own, of lengths spread evenly from the shortest to the longest that it will see.

    They are at most `most`, or one of each shape.
    """
    by_shape: dict[tuple[int, ...], Batch] = {}
    for batch in itertools.islice(training.batches(), training.steps):
        by_shape.setdefault((max(batch.lengths), batch.samples), batch)
    ordered = [by_shape[shape] for shape in sorted(by_shape)]
    if most is None:
        return ordered
    last = len(ordered) - 1
    return [ordered[place] for place in sorted({round(last * part / (most - 1)) for part in range(most)})]


def _graphs() -> int:
    """How many graphs this process has compiled."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def _nodes(loss: torch.Tensor) -> list[str]:
    """Names of all steps of the backward pass from `loss`."""
    seen: dict[Any, str] = {}
    waiting: list[Any] = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen[node] = node.name()
            waiting += [following for following, _ in node.next_functions]
    return list(seen.values())


def _gradient(training: Training, seed: int) -> torch.Tensor:
    """The probe batch's gradient as one vector."""
    import torch

    training.optimizer.zero_grad(set_to_none=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        training.loss(training.probe).backward()
    flat = [parameter.grad.float().flatten() for parameter in training.parameters if parameter.grad is not None]
    training.optimizer.zero_grad(set_to_none=True)
    return torch.cat(flat)
