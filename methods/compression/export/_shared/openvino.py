"""A model that OpenVINO runs."""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.stage.export import Loading
from methods.compression.export._shared.exported import Exported, Matrix, quiet, trace

if TYPE_CHECKING:
    from bench.stage.work import Work
    from methods._calibration import Calibration

HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""What OpenVINO calls the precision of what is not quantized. Left to itself it takes bfloat16 where the CPU can."""


def runtime() -> Any:
    """OpenVINO."""
    # It would report each use to its makers, who are not to hear of a benchmark, nor to be waited for.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


class OpenVinoModel(Exported):
    """An OpenVINO model, ``.xml`` and ``.bin``, compiled for the CPU with a precision that is asked for."""

    format = "openvino"
    hint: str

    @property
    def loading(self) -> Loading:
        """Compiled by OpenVINO, in the precision that it was measured in."""
        load = f"""import openvino

precision = {{"INFERENCE_PRECISION_HINT": "{self.hint}"}}
model = openvino.Core().compile_model(f"{{folder}}/model.xml", "CPU", precision)"""
        return Loading("openvino", load, f'{{"logits": model({self.fed()})[0]}}', ("openvino",), torch=False)

    def open(self, threads: int) -> Any:
        """The compiled model."""
        core = runtime().Core()
        options = {"INFERENCE_PRECISION_HINT": self.hint, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        files = [self.path] if self.path else [self.content("xml"), self.content("bin")]
        model = core.read_model(*files)
        return core.compile_model(model, "CPU", options)

    def run(self, opened: Any, feeds: dict[str, Any]) -> Any:
        """The logits, copied out of OpenVINO's own memory."""
        return opened(feeds)[0].copy()

    def precisions(self) -> Counter[str]:
        """In how many of the products of weights each precision runs, as OpenVINO tells after it has compiled them."""
        operators = [node.get_rt_info() for node in self.opened.get_runtime_model().get_ops()]
        return Counter(
            info["runtimePrecision"].astype(str)
            for info in operators
            if info["layerType"].astype(str) == "FullyConnected"
        )

    def unpacked(self) -> torch.Tensor:
        """All weights end to end, quantized ones as their codes; what NNCF scales by is none."""
        model = runtime().Core().read_model(self.content("xml"), self.content("bin"))
        flat = []
        for node in model.get_ops():
            users = [
                each.get_node().get_friendly_name() for output in node.outputs() for each in output.get_target_inputs()
            ]
            scale = any("/fq_" in user or "nncf_" in user for user in users)
            if node.get_type_name() == "Constant" and node.get_element_type().get_type_name() in _WEIGHTS and not scale:
                flat.append(torch.from_numpy(node.get_data().astype("float32")).reshape(-1))
        return torch.cat([weight for weight in flat if weight.numel() > 1])

    def matrices(self) -> list[Matrix]:
        """The constants of two dimensions. Codes are followed by their scales, and where NNCF made inputs smaller by a
        factor each, the weights that these meet are larger by it.
        """
        model = runtime().Core().read_model(self.content("xml"), self.content("bin"))
        found = []
        for node in model.get_ops():
            kind = node.get_element_type().get_type_name() if node.get_type_name() == "Constant" else ""
            if kind not in _WEIGHTS or len(node.get_output_shape(0)) != 2:
                continue
            values = torch.from_numpy(node.get_data().astype("float32"))
            if kind == "f32":
                found.append(Matrix(values))
                continue
            (user,) = _users(node)
            while user.get_type_name() in ("Convert", "Subtract"):
                (user,) = _users(user)
            scale = _constant(user)
            steps = scale * _smoothed(user)
            found.append(Matrix(values * steps, values, scale, steps))
        return found


def _users(node: Any) -> list[Any]:
    return [each.get_node() for output in node.outputs() for each in output.get_target_inputs()]


def _constant(node: Any) -> torch.Tensor:
    """The one input of `node` that is a constant."""
    sources = [value.get_source_output().get_node() for value in node.inputs()]
    (found,) = [source for source in sources if source.get_type_name() == "Constant"]
    return torch.from_numpy(found.get_data().astype("float32"))


def _smoothed(weight: Any) -> torch.Tensor | float:
    """What the other factor of the product with `weight` was multiplied by, a number for each of its columns."""
    for product in _users(weight):
        if product.get_type_name() == "MatMul":
            other = product.input(0).get_source_output().get_node()
            while other.get_type_name() == "FakeQuantize":
                other = other.input(0).get_source_output().get_node()
            if "nncf_smooth_quant" in other.get_friendly_name():
                return _constant(other).reshape(1, -1)
    return 1.0


_WEIGHTS = frozenset({"f32", "i8"})


def export(work: Work, precision: str, calibration: Calibration) -> OpenVinoModel:
    """The model as OpenVINO runs it."""
    openvino = runtime()
    with tempfile.TemporaryDirectory(prefix="methodbench-") as name, quiet():
        file = Path(name, "model.xml")
        program, inputs = trace(work)
        model = openvino.convert_model(program)
        if precision == "int8":
            model = _quantized(model, work, inputs, calibration)
        openvino.save_model(model, file, compress_to_fp16=False)
        files = {suffix: file.with_suffix(f".{suffix}").read_bytes() for suffix in ("xml", "bin")}
    made = OpenVinoModel(files, inputs, work.model.config)
    made.hint = HINTS[precision]
    return made


def _quantized(model: Any, work: Work, inputs: tuple[str, ...], calibration: Calibration) -> Any:
    import logging

    import nncf

    nncf.set_log_level(logging.ERROR)
    items = (
        {name: batch.inputs[name].numpy() for name in inputs}
        for batch in calibration.batches(work, batch_size=1, shuffle=False)
    )
    data = nncf.Dataset(list(itertools.islice(items, calibration.samples)))
    return nncf.quantize(model, data, subset_size=calibration.samples, model_type=nncf.ModelType.TRANSFORMER)
