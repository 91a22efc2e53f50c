"""Export to OpenVINO."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from bench.plan.context import PlanContext
from bench.recipe.declarations import Samples
from bench.stage.evidence import Claim
from methods._calibration import Calibrated
from methods.compression.export._shared import runtime

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.work import Work


@dataclass(frozen=True)
class OpenVino(Calibrated, runtime.Runtime):
    """Export the model to OpenVINO, Intel's runtime for CPUs, and run it there: it is measured there.

    Left to itself OpenVINO computes in bfloat16 where the CPU can, without a word; here the precision is asked for, and
    read back from the compiled model. ``"int8"`` is NNCF's quantization after training, of weights and activations, with
    ranges found on ``samples`` items of ``data``; 300 is NNCF's default. Batch and length stay free. It runs on as many
    threads as torch is set to. CPU only. Documentation:
    https://docs.openvino.ai/2025/openvino-workflow/model-optimization-guide/quantizing-models-post-training.html
    """

    name = "openvino"
    format = "openvino"
    paper = "https://docs.openvino.ai"
    example = 'full >> openvino("bf16")'
    # NNCF imports onnx where it is installed: so that a figure does not depend on it, it always is.
    needs = ("openvino", "nncf", "onnx", "torch._inductor.compile_fx")

    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    samples: Samples = field(default=300, kw_only=True)

    @property
    def calibrates(self) -> bool:
        """Only ranges of activations need data."""
        return self.precision == "int8"

    def problems(self, context: PlanContext) -> Iterator[str]:
        """It exports the plain forward pass of a classifier, to a precision that the CPU has."""
        yield from super().problems(context)
        if self.precision == "bf16" and not {"avx512_bf16", "amx_bf16"} & {*context.machine.cpu_features}:
            yield "this CPU has no instructions for bfloat16, and OpenVINO would compute in float32"

    def apply(self, work: Work) -> None:
        """Export, and put the runtime's model in the place of torch's."""
        from methods.compression.export._shared.openvino import export

        work.model = export(work, self.precision, self.calibration)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The runtime holds the model, answers as torch did, and computes in the precision that was asked for."""
        from methods.compression.export._shared.exported import same_outputs, same_weights
        from methods.compression.export._shared.openvino import OpenVinoModel

        yield from same_outputs(before, work, OpenVinoModel, 1e-4 if self.precision == "fp32" else None)
        yield from same_weights(before, work, quantized=self.precision == "int8")
        yield self._precision(work.model)

    def serving_evidence(self, model: torch.nn.Module) -> Iterator[Claim]:
        """So it did where it was measured, from its files."""
        from methods.compression.export._shared.openvino import OpenVinoModel

        if isinstance(model, OpenVinoModel):
            yield model.from_disk()
        yield self._precision(model)

    def _precision(self, model: torch.nn.Module) -> Claim:
        from methods.compression.export._shared.openvino import OpenVinoModel

        found = dict(model.precisions()) if isinstance(model, OpenVinoModel) else {}
        wanted = {"fp32": {"f32"}, "bf16": {"bf16"}, "int8": {"i8", "u8"}}[self.precision]
        seen = ", ".join(f"{count} in {name}" for name, count in sorted(found.items()))
        return Claim(
            f"products of weights run in {self.precision}", bool(found) and found.keys() <= wanted, seen or "none"
        )
