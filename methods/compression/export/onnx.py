"""Export to onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench.stage.evidence import Claim
from methods.compression.export._shared import runtime

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.work import Work


@dataclass(frozen=True)
class Onnx(runtime.Runtime):
    """Export the model to ONNX and run it in onnxruntime, which is what many deploy with: it is measured there.

    ``"int8"`` is onnxruntime's dynamic quantization: weights and embeddings in 8 bits, a scale for each output channel,
    activations quantized as they come. Batch and length stay free. The session runs on as many threads as torch is set
    to. CPU only. Documentation: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """

    name = "onnx"
    format = "onnx"
    paper = "https://onnxruntime.ai/docs/"
    example = 'full >> onnx("int8")'
    needs = ("onnx", "onnxruntime.quantization", "onnxscript", "networkx", "torch._inductor.compile_fx")

    precision: Literal["fp32", "int8"] = "fp32"

    def apply(self, work: Work) -> None:
        """Export, and put the runtime's model in the place of torch's."""
        from methods.compression.export._shared.onnx import export

        work.model = export(work, self.precision)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The runtime holds the model, answers as torch did, and its graph has the operators of the precision."""
        from methods.compression.export._shared.exported import same_outputs, same_weights
        from methods.compression.export._shared.onnx import OnnxModel

        yield from same_outputs(before, work, OnnxModel, 1e-4 if self.precision == "fp32" else None)
        yield from same_weights(before, work, quantized=self.precision == "int8")
        found = work.model.operators() if isinstance(work.model, OnnxModel) else {}
        integer, quantizing = (found.get(name, 0) for name in ("MatMulInteger", "DynamicQuantizeLinear"))
        right = integer > 0 < quantizing if self.precision == "int8" else not integer and bool(found)
        yield Claim(
            f"its operators are those of {self.precision}",
            right,
            f"{integer} integer products, {quantizing} quantizations",
        )

    def serving_evidence(self, model: torch.nn.Module) -> Iterator[Claim]:
        """onnxruntime ran it, from its file and on the CPU."""
        from methods.compression.export._shared.onnx import OnnxModel

        if isinstance(model, OnnxModel):
            yield model.from_disk()
        providers = model.opened.get_providers() if isinstance(model, OnnxModel) else []
        yield Claim(
            "onnxruntime ran it on the CPU", providers == ["CPUExecutionProvider"], ", ".join(providers) or "no session"
        )
