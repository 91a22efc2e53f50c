"""Mistakes in the form in which a model is stored and run: folded, in 16 bits, without its zeros, compiled, exported."""

from tests.mutants.planting import Mutant

_MERGE = ("merge", "methods/compression/export/merge.py")
_HALF = ("half", "methods/compression/quantization/half.py")
_COMPILED = ("compile_inference", "methods/compression/export/compile_inference.py")
_STORAGE = "methods/compression/export/sparse_storage.py"
_LINEAR = "methods/compression/export/_shared/sparse_linear.py"
_ONNX = "methods/compression/export/_shared/onnx.py"
_OPENVINO = "methods/compression/export/_shared/openvino.py"
_EXPORTED = "methods/compression/export/_shared/exported.py"

_FOLD = "work.model = work.model.merge_and_unload()  # type: ignore[operator]"
_ADAPTED = "a = [m for m in work.model.modules() if hasattr(m, 'lora_B') and len(m.lora_B)]\n        "
_EACH = "in work.model.named_parameters():\n            if parameter.is_floating_point():\n                if"
_CAST = "parameter.data = parameter.data.to(dtype)"
_CSR = "magnitude(0.9) >> sparse_storage"
_COMPILE = "model.compile(dynamic=True, mode=self.mode)"


def _merge(new: str, why: str, recipe: str = "lora(r=2) >> merge") -> Mutant:
    return Mutant(*_MERGE, _FOLD, new, recipe, why)


def _adapters(change: str) -> str:
    return f"{_ADAPTED}{change}\n        {_FOLD}"


def _half(old: str, new: str, why: str, recipe: str = "half") -> Mutant:
    return Mutant(*_HALF, old, new, recipe, why)


def _storage(file: str, old: str, new: str, why: str, recipe: str = _CSR) -> Mutant:
    return Mutant("sparse_storage", file, old, new, recipe, why)


MUTANTS = [
    _merge("work.model = work.model.unload()", "nothing is folded in"),
    _merge(_adapters("a[0].lora_B['default'].weight.data.zero_()"), "the first layer's update left out"),
    _merge(_adapters("a[-1].lora_B['default'].weight.data.zero_()"), "the last layer's update left out"),
    _merge(_adapters("a[0].lora_B['default'].weight.data.mul_(2)"), "the first layer's update doubled"),
    _merge(_adapters("[m.scaling.update(default=m.scaling['default'] / 2) for m in a]"), "updates halved"),
    _merge(_adapters("[m.scaling.update(default=m.scaling['default'] * 1.01) for m in a]"), "updates a percent too large"),
    _merge(_adapters("[m.lora_B['default'].weight.data.copy_(m.lora_B['default'].weight.bfloat16()) for m in a]"), "updates through bfloat16"),
    _merge(_adapters("a[1].base_layer.weight.data.copy_(a[1].base_layer.weight.bfloat16())"), "a base weight through bfloat16"),
    _merge(f"{_FOLD}\n        work.model.classifier.weight.data.mul_(1.00001)", "the head moves a little"),
    _merge(f"{_FOLD}\n        [p.data.copy_(p.bfloat16()) for n, p in work.model.named_parameters() if 'position_embeddings' in n]", "positions through bfloat16"),
    _merge(_adapters("a[0].lora_B['default'].weight.data.zero_()"), "an update left out of many", "lora(r=2, targets=['query', 'key', 'value', 'dense']) >> merge"),
    _merge(_adapters("a[0].lora_A['default'].weight.data.copy_(a[0].lora_A['default'].weight.flip(0))"), "an update of other rows"),
    # -- 16 bits
    _half("if parameter.is_floating_point():", "if parameter.is_floating_point() and parameter.dim() > 1:", "norms and biases left out"),
    _half(_EACH, _EACH.replace("work.model.named_parameters()", "list(work.model.named_parameters())[:-2]"), "the head left out"),
    _half(_EACH, _EACH.replace("work.model.named_parameters()", "list(work.model.named_parameters())[::2]"), "half of the model"),
    _half(_CAST, "parameter.data = parameter.data.bfloat16().to(dtype)", "float16 by way of bfloat16", 'half("fp16")'),
    _half(_CAST, "import torch; parameter.data = (parameter.data.contiguous().view(torch.int32) & -65536).view(torch.float32).to(dtype)", "cut off, not rounded"),
    _half(_CAST, "parameter.data = parameter.data.flip(0).to(dtype)", "rows in the wrong order"),
    _half(_CAST, "parameter.data = (parameter.data * 1.01).to(dtype)", "a percent too large"),
    _half(_CAST, "parameter.data = parameter.data.clamp(-0.05, 0.05).to(dtype) if parameter.dim() > 1 else parameter.data.to(dtype)", "large weights clipped"),
    _half(_CAST, "parameter.data = (parameter.data.round(decimals=2) if parameter.dim() == 1 else parameter.data).to(dtype)", "biases rounded further", "full >> half"),
    _half('return torch.bfloat16 if self.dtype == "bf16" else torch.float16', 'return torch.float16 if self.dtype == "bf16" else torch.bfloat16', "the other type"),
    _half(_CAST, f"{_CAST}\n                for buffer in work.model.buffers():\n                    buffer.data = buffer.data.to(dtype) if buffer.is_floating_point() else buffer.data", "buffers too"),
    _half("aside = work.state[self.name] = {}", "aside = work.state[self.name] = {}\n        work.model.register_forward_pre_hook(lambda module, args: module.float() and None)", "computes in 32 bits"),
    # -- without zeros
    _storage(_STORAGE, "if _zeros(layer.weight) >= self.threshold:\n                work", "if _zeros(layer.weight) > 0.91:\n                work", "few layers"),
    _storage(_STORAGE, "return float((weight == 0).float().mean())", "return float((weight == 0).float().mean()) - 0.42", "another threshold"),
    _storage(_STORAGE, "in block_linears(work.model).items():", "in list(block_linears(work.model).items())[1:]:", "the first layer left out"),
    _storage(_LINEAR, "filled = weight != 0", "filled = weight.abs() > 0.04", "small weights are lost"),
    _storage(_LINEAR, 'self.register_buffer("values", weight[filled])', 'self.register_buffer("values", weight[filled].bfloat16().float())', "values through bfloat16"),
    _storage(_LINEAR, 'self.register_buffer("values", weight[filled])', 'self.register_buffer("values", weight.T[filled.T])', "values by columns"),
    _storage(_LINEAR, 'self.register_buffer("values", weight[filled])', 'self.register_buffer("values", weight[filled] * (1 + 1e-6))', "values a millionth too large"),
    _storage(_LINEAR, "filled.nonzero()[:, 1].int()", "filled.nonzero()[:, 1].int().flip(0)", "columns in the wrong order"),
    _storage(_LINEAR, "self.bias = layer.bias", "self.bias = None", "biases dropped", f"full >> {_CSR}"),
    _storage(_LINEAR, "self.weight, self.bias)", "self.weight, self.bias) + (0 if self.bias is None else self.bias)", "biases added twice", f"full >> {_CSR}"),
    _storage(_LINEAR, "linear(inputs, self.weight, self.bias)", "linear(inputs.bfloat16().float(), self.weight, self.bias)", "inputs through bfloat16"),
    _storage(_STORAGE, "work.model.set_submodule(name, SparseLinear(layer))", "work.model.set_submodule(name, SparseLinear(layer)); work.model.classifier.weight.data.mul_(1.000001)", "the head moves a little"),
    _storage(_LINEAR, "filled.sum(1).cumsum(0)", "filled.sum(1).cumsum(0).clamp(max=int(filled[:-1].sum()))", "the last row is lost"),
    # -- compiled
    Mutant(*_COMPILED, _COMPILE, 'model.compile(dynamic=True, backend="eager")', "compile_inference", "runs eagerly"),
    Mutant(*_COMPILED, _COMPILE, 'model.compile(dynamic=True, backend="aot_eager")', "compile_inference", "traced, not compiled"),
    Mutant(*_COMPILED, _COMPILE, "model.classifier.compile(dynamic=True, mode=self.mode)", "compile_inference", "the head alone"),
    Mutant(*_COMPILED, _COMPILE, "list(model.base_model.encoder.layer)[0].compile(dynamic=True, mode=self.mode)", "compile_inference", "one block alone"),
    Mutant(*_COMPILED, _COMPILE, "model.compile(dynamic=True, mode=self.mode, disable=True)", "compile_inference", "switched off"),
    Mutant(*_COMPILED, _COMPILE, "[p.data.copy_(p.bfloat16()) for p in model.parameters()]; model.compile(dynamic=True, mode=self.mode)", "compile_inference", "weights through bfloat16"),
    # -- another runtime
    Mutant("onnx", _ONNX, "file, small, per_channel=True)", "file, small, per_channel=False)", 'onnx("int8")', "a scale for the whole tensor"),
    Mutant("onnx", _ONNX, "file, small, per_channel=True)", 'file, small, per_channel=True, op_types_to_quantize=["MatMul"])', 'onnx("int8")', "embeddings left out"),
    Mutant("onnx", _ONNX, "file, small, per_channel=True)", "file, small, per_channel=True, reduce_range=True)", 'onnx("int8")', "seven bits"),
    Mutant("onnx", _ONNX, "file, small, per_channel=True)", "file, small, per_channel=True, nodes_to_exclude=[n.name for n in made.model_proto.graph.node if n.op_type == 'MatMul'][:3])", 'onnx("int8")', "three products left out"),
    Mutant("onnx", _ONNX, "program, inputs = trace(work)", "[p.data.copy_(p.bfloat16()) for p in work.model.parameters()]; program, inputs = trace(work)", "onnx", "weights through bfloat16"),
    Mutant("onnx", _ONNX, "program, inputs = trace(work)", "[p.data.mul_(1.003) for p in work.model.parameters() if p.dim() > 1]; program, inputs = trace(work)", 'onnx("int8")', "other weights"),
    Mutant("onnx", _EXPORTED, "module = _Logits(work.model.eval())", "work.model.bert.encoder.layer[1].load_state_dict(work.model.bert.encoder.layer[0].state_dict()); module = _Logits(work.model.eval())", "onnx", "the first block twice"),
    Mutant("onnx", _EXPORTED, "module = _Logits(work.model.eval())", "work.model.bert.encoder.layer[1].output.dense.weight.data.copy_(work.model.bert.encoder.layer[0].output.dense.weight); module = _Logits(work.model.eval())", 'onnx("int8")', "a layer of another block"),
    Mutant("openvino", _OPENVINO, "compress_to_fp16=False", "compress_to_fp16=True", "openvino", "weights in float16"),
    Mutant("openvino", _OPENVINO, "in calibration.batches(work, batch_size=1, shuffle=False)", 'in work.batches("test", shuffle=False)', 'openvino("int8", samples=16)', "calibrated on the test split"),
    Mutant("openvino", _OPENVINO, "batch_size=1, shuffle=False", "shuffle=False", 'openvino("int8", samples=16)', "calibrated with padding"),
    Mutant("openvino", _OPENVINO, "itertools.islice(items, calibration.samples)", "itertools.islice(items, 1)", 'openvino("int8", samples=16)', "calibrated on one item"),
    Mutant("openvino", _OPENVINO, "program, inputs = trace(work)", "[p.data.mul_(1.003) for p in work.model.parameters() if p.dim() > 1]; program, inputs = trace(work)", 'openvino("int8", samples=16)', "other weights"),
    Mutant("openvino", _OPENVINO, "nncf.quantize(model, data, subset_size=calibration.samples,", "nncf.quantize(model, data, ignored_scope=nncf.IgnoredScope(names=[o.get_friendly_name() for o in model.get_ops() if o.get_type_name() == 'MatMul'][:1]), subset_size=calibration.samples,", 'openvino("int8", samples=16)', "a product left out"),
]  # fmt: skip
