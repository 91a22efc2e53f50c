"""A model that onnxruntime runs."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.stage.export import Loading
from methods.compression.export._shared.exported import Exported, Matrix

if TYPE_CHECKING:
    from bench.stage.work import Work


class OnnxModel(Exported):
    """An ``.onnx`` file in an onnxruntime session."""

    format = "onnx"

    @property
    def loading(self) -> Loading:
        """In a session of onnxruntime."""
        load = 'import onnxruntime\n\nmodel = onnxruntime.InferenceSession(f"{folder}/model.onnx")'
        ask = f'{{"logits": model.run(["logits"], {self.fed()})[0]}}'
        return Loading("onnx", load, ask, ("onnxruntime",), torch=False)

    def open(self, threads: int) -> Any:
        """A session on the CPU."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        source = str(self.path) if self.path else self.content("onnx")
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    def run(self, opened: Any, feeds: dict[str, Any]) -> Any:
        """The logits."""
        return opened.run(["logits"], feeds)[0]

    def operators(self) -> Counter[str]:
        """How often each operator is in the graph."""
        return Counter(node.op_type for node in self._graph().node)

    def unpacked(self) -> torch.Tensor:
        """All weights end to end, quantized ones as their codes' distance from zero's."""
        import onnx

        arrays = {
            weight.name: onnx.numpy_helper.to_array(weight)
            for weight in self._graph().initializer
            if (weight.data_type in _WEIGHTS and weight.dims) or weight.name.endswith("_zero_point")
        }
        zeros = {
            name.removesuffix("_zero_point"): array for name, array in arrays.items() if name.endswith("_zero_point")
        }
        flat = [
            (array.astype("float32") - zeros.get(name.removesuffix("_quantized"), 0)).reshape(-1)
            for name, array in arrays.items()
            if not name.endswith(("_scale", "_zero_point"))
        ]
        return torch.cat([torch.from_numpy(array) for array in flat])

    def matrices(self) -> list[Matrix]:
        """The initializers of two dimensions, with their scales and zero points."""
        import onnx

        arrays = {
            weight.name: torch.from_numpy(onnx.numpy_helper.to_array(weight).copy())
            for weight in self._graph().initializer
            if weight.data_type in _WEIGHTS
        }
        found = []
        for name, array in arrays.items():
            if array.dim() != 2 or name.endswith("_scale"):
                continue
            if array.is_floating_point():
                found.append(Matrix(array.float()))
                continue
            stem = name.removesuffix("_quantized")
            scale, zero = arrays[f"{stem}_scale"], arrays[f"{stem}_zero_point"].float()
            codes = array.float() - zero
            # Scales are of columns, which are outputs: the file has weights turned round.
            found.append(Matrix(codes * scale, codes, scale, scale.reshape(1, -1)))
        return found

    def _graph(self) -> Any:
        import onnx

        return onnx.load_from_string(self.content("onnx")).graph


_WEIGHTS = frozenset({1, 2, 3, 10})
"""float32, uint8, int8 and float16 in ONNX's ``TensorProto``."""


def export(work: Work, precision: str) -> OnnxModel:
    """The model as onnxruntime runs it."""
    import logging

    import onnxruntime.quantization

    from methods.compression.export._shared.exported import quiet, trace

    with tempfile.TemporaryDirectory(prefix="methodbench-") as name, quiet():
        file = Path(name, "model.onnx")
        program, inputs = trace(work)
        logger = logging.getLogger("torch.onnx")
        level = logger.level
        logger.setLevel(logging.ERROR)  # it tells of packages that are not installed
        try:
            made: Any = torch.onnx.export(
                program, (), input_names=list(inputs), output_names=["logits"], dynamo=True, verbose=False
            )
            whole = made.model_proto
            for noted in (whole, whole.graph, *whole.graph.node, *whole.graph.value_info, *whole.graph.initializer):
                del noted.metadata_props[:]  # where in torch's source each node is from
                noted.doc_string = ""
            file.write_bytes(whole.SerializeToString())
        finally:
            logger.setLevel(level)
        if precision == "int8":
            small = file.with_name("int8.onnx")
            logging.disable(logging.WARNING)  # it recommends, through the root logger, a step that changes nothing here
            try:
                onnxruntime.quantization.quantize_dynamic(file, small, per_channel=True)
            finally:
                logging.disable(logging.NOTSET)
            file = small
        return OnnxModel({"onnx": file.read_bytes()}, inputs, work.model.config)
