"""Mistakes in how weights are put in fewer bits."""

from tests.mutants.planting import Mutant

_INT8 = ("torch_int8_dynamic", "methods/compression/quantization/torch_int8_dynamic.py")
_PACKED = "methods/compression/quantization/_shared/packing.py"
_QUANTIZED = "methods/_quantized.py"
_STATISTICS = "methods/_statistics.py"
_BITSANDBYTES = "methods/compression/quantization/_shared/bitsandbytes_layers.py"
_TORCHAO = "methods/compression/quantization/_shared/torchao.py"
_INT4 = "full >> int4(group_size=32)"
_GPTQ = "gptq(samples=16, group_size=32)"
_AWQ = "awq(samples=16, group_size=32)"

_IMPORT = "from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic"
_LAYERS = "layers = block_linears(work.model)"
_NAMES = "names = dict.fromkeys(layers, per_channel_dynamic_qconfig)"
_DYNAMIC = "quantize_dynamic(work.model, names, inplace=True)"


def _dynamic(old: str, new: str, why: str) -> Mutant:
    return Mutant(*_INT8, old, new, "full >> torch_int8_dynamic", why)


def _observed(options: str) -> str:
    return (
        "from torch.ao.quantization import QConfig, default_dynamic_quant_observer, quantize_dynamic\n"
        "        from torch.ao.quantization.observer import PerChannelMinMaxObserver\n        import torch\n"
        "        per_channel_dynamic_qconfig = QConfig(activation=default_dynamic_quant_observer,"
        f" weight=PerChannelMinMaxObserver.with_args(dtype=torch.qint8, {options}))"
    )


def _each(change: str) -> str:
    packed = "type(m).__module__.startswith('torch.ao.nn.quantized.dynamic') and hasattr(m, 'set_weight_bias')"
    return f"{_DYNAMIC}\n            [{change} for m in work.model.modules() if {packed}]"


MUTANTS = [
    _dynamic(
        _IMPORT,
        "from torch.ao.quantization import default_dynamic_qconfig as per_channel_dynamic_qconfig, quantize_dynamic",
        "a scale for the whole tensor",
    ),
    _dynamic(
        _IMPORT,
        "from torch.ao.quantization import float16_dynamic_qconfig as per_channel_dynamic_qconfig, quantize_dynamic",
        "half precision",
    ),
    _dynamic(_IMPORT, _observed("qscheme=torch.per_channel_affine"), "asymmetric for symmetric"),
    _dynamic(_IMPORT, _observed("qscheme=torch.per_channel_symmetric, reduce_range=True"), "seven bits"),
    _dynamic(
        _IMPORT,
        _observed("qscheme=torch.per_channel_symmetric, ch_axis=1"),
        "a scale for each input",
    ),
    _dynamic(_LAYERS, "layers = dict(list(block_linears(work.model).items())[6:])", "the first block left out"),
    _dynamic(_LAYERS, "layers = dict(list(block_linears(work.model).items())[:-1])", "the last layer left out"),
    _dynamic(_NAMES, _NAMES.replace("(layers", '([*layers, "classifier"]'), "the head quantized too"),
    _dynamic(
        _NAMES,
        _NAMES.replace("(layers", '([*layers, "bert.pooler.dense"]'),
        "the pooler quantized too",
    ),
    _dynamic(_DYNAMIC, _each("m.set_weight_bias(m.weight(), None)"), "biases dropped"),
    _dynamic(_DYNAMIC, _each("m.set_weight_bias(m.weight(), m.bias() * 2)"), "biases doubled"),
    _dynamic(
        _DYNAMIC,
        f"[p.copy_(p.bfloat16()) for p in work.model.state_dict().values() if p.is_floating_point()]\n            {_DYNAMIC}",
        "all weights pass through bfloat16",
    ),
    _dynamic(
        _DYNAMIC,
        f"{_DYNAMIC}\n            [p.copy_(p.bfloat16()) for n, p in work.model.state_dict().items() if 'LayerNorm' in n]",
        "norms in bfloat16",
    ),
    _dynamic(
        "from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic\n",
        "from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic\n"
        "        from bench.models.architecture import blocks\n"
        "        blocks(work.model)[1].load_state_dict(blocks(work.model)[0].state_dict())\n",
        "the second block is the first one's",
    ),
    # -- rounding to the nearest, packed
    Mutant(
        "int4", _PACKED,
        "largest = _quantized.grouped(weight.float(), group_size).abs().amax(1)",
        "largest = _quantized.grouped(weight.float(), group_size).amax(1)",
        _INT4, "steps by the largest, signs kept",
    ),
    Mutant(
        "int4", _PACKED, ".abs().amax(1).view(len(weight), -1)",
        ".abs().amax(1).view(len(weight), -1)\n    largest = largest.amax(1, keepdim=True).expand_as(largest)",
        _INT4, "a step for the whole row",
    ),
    Mutant("int4", _PACKED, "(largest / top(bits))", "(largest / (top(bits) + 1))", _INT4, "the largest are clipped"),
    Mutant("int4", _PACKED, "(largest / top(bits))", "(largest * 1.02 / top(bits))", _INT4, "steps 2 % too long"),
    Mutant("int4", _PACKED, "(largest / top(bits)).half()", "(largest / top(bits)).bfloat16().half()", _INT4, "steps in bfloat16"),
    Mutant(
        "int4", _PACKED,
        "step.float()).round().clamp(", "step.float()).trunc().clamp(",
        _INT4, "rounded towards zero",
    ),
    Mutant("int4", _PACKED, "2 ** (bits - 1) - 1", "2 ** (bits - 1) - 2", _INT4, "thirteen values"),
    Mutant(
        "int4", _QUANTIZED,
        "    for block in by_block(work.model):\n        for path, layer in block.items():\n            put(",
        "    for block in list(by_block(work.model))[1:]:\n        for path, layer in block.items():\n            put(",
        _INT4, "the first block left out",
    ),
    Mutant(
        "int4", _QUANTIZED,
        "    for block in by_block(work.model):\n        for path, layer in block.items():\n            put(",
        "    for block in by_block(work.model):\n        for path, layer in list(block.items())[:-1]:\n            put(",
        _INT4, "the last layer of each block left out",
    ),
    Mutant(
        "int4", _QUANTIZED,
        "for block in blocks(model):\n        yield", "for block in list(blocks(model))[:-1]:\n        yield",
        _INT4, "the last block is not seen",
    ),
    Mutant(
        "int4", "methods/compression/quantization/int4.py",
        "from methods.compression.quantization._shared import packing\n\n        def rounded", "from methods.compression.quantization._shared import packing\n\n        work.model.get_input_embeddings().weight.data.mul_(64).round_().div_(64)\n\n        def rounded",
        _INT4, "embeddings rounded too",
    ),
    Mutant("int4", _PACKED, "self.bias = plain.bias", "self.bias = None", _INT4, "biases dropped"),
    Mutant(
        "int4", _PACKED, "self._weight(inputs.dtype), self.bias)",
        "self._weight(inputs.dtype), self.bias) + (0 if self.bias is None else self.bias)",
        _INT4, "biases added twice",
    ),
    Mutant(
        "int4", "methods/compression/quantization/int4.py",
        "weight = layer.weight.detach()", "weight = layer.weight.detach().bfloat16()",
        _INT4, "weights through bfloat16 first",
    ),
    Mutant(
        "int4", "methods/compression/quantization/int4.py",
        "weight = layer.weight.detach()", "weight = layer.weight.detach().flip(0)",
        _INT4, "rows in the wrong order",
    ),
    # -- GPTQ
    Mutant(
        "gptq", "methods/compression/quantization/gptq.py", "layer.weight.detach(), products[path],",
        'layer.weight.detach(), products[path] if "attention" in path else products[path].diag().diag(),',
        _GPTQ, "attention alone makes up for errors",
    ),
    Mutant(
        "gptq", "methods/compression/quantization/gptq.py", "layer.weight.detach(), products[path],",
        'layer.weight.detach(), products[path].diag().diag() if "query" in path else products[path],',
        _GPTQ, "queries are plainly rounded",
    ),
    Mutant("gptq", "methods/compression/quantization/gptq.py", "damping * hessian", "100 * damping * hessian", _GPTQ, "a hundred times the damping"),
    Mutant("gptq", "methods/compression/quantization/gptq.py", "weight[:, column:stop] -= error", "weight[:, column:stop] += error", _GPTQ, "errors are doubled, not made up for"),
    Mutant(
        "gptq", "methods/compression/quantization/gptq.py",
        "weight[:, stop:] -= torch.stack(errors, 1) @ factor[start:stop, stop:]", "",
        _GPTQ, "errors stay in their group",
    ),
    Mutant(
        "gptq", "methods/compression/quantization/gptq.py",
        "weight[:, stop:] -= torch.stack(errors, 1) @ factor[start:stop, stop:]",
        "weight[:, stop:] -= 0.9 * torch.stack(errors, 1) @ factor[start:stop, stop:]",
        _GPTQ, "a tenth of the errors stays in its group",
    ),
    Mutant(
        "gptq", "methods/compression/quantization/gptq.py",
        "for layers in _quantized.by_block(work.model):\n            products = _statistics.collect(work, layers, self.calibration, lambda inputs: inputs.T @ inputs)",
        "products = {}\n        for layers in _quantized.by_block(work.model):\n            products |= _statistics.collect(work, layers, self.calibration, lambda inputs: inputs.T @ inputs)\n"
        "        for layers in _quantized.by_block(work.model):",
        _GPTQ, "later blocks do not see the rounded ones",
    ),
    Mutant("gptq", _STATISTICS, "calibration.batches(work)", 'work.batches("test")', _GPTQ, "calibrated on the test split"),
    Mutant("gptq", _STATISTICS, "padded = mask is not None and", "padded = False and mask is not None and", _GPTQ, "padding counts"),
    Mutant("gptq", _STATISTICS, "-(-calibration.samples // work.budget.batch_size)", "1", _GPTQ, "calibrated on one batch"),
    Mutant("gptq", _STATISTICS, "with evaluating(work.model), torch.no_grad():", "work.model.train()\n        with torch.no_grad():", _GPTQ, "calibrated with dropout"),
    Mutant(
        "gptq", _STATISTICS, "sums[name] = sums[name] + found if name in sums else found", "sums[name] = found",
        _GPTQ, "the last batch alone counts",
    ),
    Mutant(
        "gptq", "methods/compression/quantization/gptq.py",
        "inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))", "inverse = hessian",
        _GPTQ, "the inverse forgotten",
    ),
    # -- AWQ
    Mutant(
        "awq", "methods/compression/quantization/awq.py", "*_parts(found[path])",
        '_parts(found[path])[0], _parts(found[path])[1] if path.startswith("bert.encoder.layer.0.attention.self") else found[path][-1] * 0 + 1',
        _AWQ, "most layers are not scaled",
    ),
    Mutant(
        "awq", "methods/compression/quantization/awq.py", "*_parts(found[path])",
        '_parts(found[path])[0], found[path][-1] * 0 + 1 if "query" in path else _parts(found[path])[1]',
        _AWQ, "queries are not scaled",
    ),
    Mutant("awq", "methods/compression/quantization/awq.py", "range(POWERS)", "range(1)", _AWQ, "no layer is scaled"),
    Mutant("awq", "methods/compression/quantization/awq.py", "range(POWERS)", "range(0, POWERS, 5)", _AWQ, "four powers are tried"),
    Mutant("awq", "methods/compression/quantization/awq.py", "if off < least:", "if True:", _AWQ, "the last power is taken"),
    Mutant("awq", "methods/compression/quantization/awq.py", "float((error @ products * error).sum())", "float(error.square().sum())", _AWQ, "the weights' error, not the outputs'"),
    Mutant("awq", "methods/compression/quantization/awq.py", "inputs.abs().sum(0, keepdim=True)", "inputs.abs().amax(0, keepdim=True)", _AWQ, "by the largest inputs"),
    Mutant("awq", "methods/compression/quantization/awq.py", "inputs.abs().sum(0, keepdim=True)", "inputs.square().sum(0, keepdim=True)", _AWQ, "by the inputs' squares"),
    Mutant("awq", "methods/compression/quantization/awq.py", "magnitudes ** (number / POWERS)", "magnitudes ** (-number / POWERS)", _AWQ, "active inputs get longer steps"),
    Mutant("awq", _PACKED, "inputs = inputs / self.divisor.to(inputs.dtype)", "inputs = inputs / self.divisor.bfloat16().to(inputs.dtype)", _AWQ, "divisors through bfloat16"),
    Mutant("awq", _STATISTICS, "calibration.batches(work)", 'work.batches("validation")', _AWQ, "calibrated on the validation split"),
    Mutant("awq", _STATISTICS, "padded = mask is not None and", "padded = False and mask is not None and", _AWQ, "padding counts"),
    # -- bitsandbytes
    Mutant("bnb_int8", _BITSANDBYTES, "threshold=threshold", "threshold=0.0", "bnb_int8", "no outlier is apart"),
    Mutant("bnb_int8", _BITSANDBYTES, "plain.weight.detach().cpu()", "plain.weight.detach().cpu().clamp(-0.04, 0.04)", "bnb_int8", "large weights clipped"),
    Mutant("bnb_int8", _BITSANDBYTES, "plain.weight.detach().cpu()", "(1.005 * plain.weight.detach().cpu())", "bnb_int8", "weights half a percent too large"),
    Mutant(
        "bnb_int8", _BITSANDBYTES, "layer.weight, layer.bias = weight.to(plain.weight.device), plain.bias\n    return layer\n\n\ndef mark",
        "layer.weight, layer.bias = weight.to(plain.weight.device), None\n    return layer\n\n\ndef mark",
        "full >> bnb_int8", "biases dropped",
    ),
    Mutant(
        "bnb_int8", _BITSANDBYTES, "layer.weight, layer.bias = weight.to(plain.weight.device), plain.bias\n    return layer\n\n\ndef mark",
        "layer.weight = weight.to(plain.weight.device)\n    if plain.bias is not None:\n        layer.bias = nn.Parameter(2 * plain.bias.detach(), False)\n    return layer\n\n\ndef mark",
        "full >> bnb_int8", "biases doubled",
    ),
    Mutant("bnb_int8", "methods/compression/quantization/bnb_int8.py", "layers.eight_bits(layer, self.threshold)", "layers.eight_bits(layer, self.threshold) if layer.out_features > 32 else layer", "bnb_int8", "attention left out"),
    Mutant("nf4", _BITSANDBYTES, "plain.weight.detach(), compress_statistics=double_quant, quant_type=quant_type", 'plain.weight.detach(), compress_statistics=double_quant, quant_type="fp4"', "nf4", "values of fp4"),
    Mutant("nf4", _BITSANDBYTES, "plain.weight.detach(), compress_statistics=double_quant", "plain.weight.detach(), compress_statistics=False", "nf4", "scales in 32 bits"),
    Mutant("nf4", _BITSANDBYTES, "plain.weight.detach(), compress_statistics", "plain.weight.detach(), blocksize=128, compress_statistics", "nf4", "blocks of 128"),
    Mutant("nf4", _BITSANDBYTES, "plain.weight.detach(), compress_statistics", "1.01 * plain.weight.detach(), compress_statistics", "nf4(double_quant=False)", "weights a percent too large"),
    Mutant("nf4", _BITSANDBYTES, "plain.weight.detach(), compress_statistics", "plain.weight.detach().sign() * plain.weight.detach().abs() ** 0.98, compress_statistics", "nf4", "weights bent"),
    Mutant("nf4", _BITSANDBYTES, '"fp32": torch.float32', '"fp32": torch.bfloat16', "nf4", "multiplies in bfloat16"),
    Mutant("nf4", _BITSANDBYTES, "plain.bias  # moving is what quantizes", "None", "full >> nf4", "biases dropped"),
    Mutant("fp4", _BITSANDBYTES, "plain.weight.detach(), compress_statistics", "plain.weight.detach().bfloat16(), compress_statistics", "fp4(double_quant=False)", "weights through bfloat16"),
    Mutant("fp4", _BITSANDBYTES, '"bf16": torch.bfloat16', '"bf16": torch.float16', 'fp4(compute_dtype="bf16")', "multiplies in float16"),
    Mutant("fp4", _BITSANDBYTES, "plain.weight.detach(), compress_statistics", "plain.weight.detach().flip(1), compress_statistics", "fp4", "columns in the wrong order"),
    # -- torchao
    Mutant("torchao_int8_weight_only", "methods/compression/quantization/torchao_int8_weight_only.py", "from torchao.quantization import Int8WeightOnlyConfig", "from torchao.quantization import Int8DynamicActivationInt8WeightConfig as Int8WeightOnlyConfig", "torchao_int8_weight_only", "activations rounded too"),
    Mutant("torchao_int8_weight_only", "methods/compression/quantization/torchao_int8_weight_only.py", "Int8WeightOnlyConfig(set_inductor_config=False)", "Int8WeightOnlyConfig(set_inductor_config=False, granularity=__import__('torchao').quantization.PerTensor())", "torchao_int8_weight_only", "a scale for the whole tensor"),
    Mutant("torchao_int8_weight_only", "methods/compression/quantization/torchao_int8_weight_only.py", "Int8WeightOnlyConfig(set_inductor_config=False)", "Int8WeightOnlyConfig(set_inductor_config=False, granularity=__import__('torchao').quantization.PerGroup(32))", "torchao_int8_weight_only", "scales for groups of 32"),
    Mutant("torchao_int8_weight_only", _TORCHAO, "    for path, layer in layers.items():\n        _quantized", "    for path, layer in list(layers.items())[1:]:\n        _quantized", "torchao_int8_weight_only", "the first layer left out"),
    Mutant("torchao_int8_weight_only", _TORCHAO, "        quantize_(layer, config)\n", "        quantize_(layer, config)\n        layer.bias = None\n", "full >> torchao_int8_weight_only", "biases dropped"),
    Mutant("torchao_int8_weight_only", _TORCHAO, "        quantize_(layer, config)\n", "        quantize_(layer, config)\n        layer.weight.scale.mul_(1.003)\n", "torchao_int8_weight_only", "scales three per mille too large"),
    Mutant("torchao_int8_dynamic", "methods/compression/quantization/torchao_int8_dynamic.py", "        from torchao.quantization import Int8DynamicActivationInt8WeightConfig\n", "        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, PerTensor\n        from functools import partial\n        Int8DynamicActivationInt8WeightConfig = partial(Int8DynamicActivationInt8WeightConfig, granularity=PerTensor())\n", "torchao_int8_dynamic", "a scale for all tokens"),
    Mutant("torchao_int8_dynamic", "methods/compression/quantization/torchao_int8_dynamic.py", "reduced = should_reduce_range(work.device)", "reduced = not should_reduce_range(work.device)", "torchao_int8_dynamic", "the other range"),
    Mutant("torchao_int8_dynamic", "methods/compression/quantization/torchao_int8_dynamic.py", "set_inductor_config=False, reduce_range=reduced)", "set_inductor_config=False, reduce_range=reduced, act_mapping_type=__import__('torchao').quantization.quant_primitives.MappingType.ASYMMETRIC)", "torchao_int8_dynamic", "asymmetric activations"),
    Mutant("torchao_int8_dynamic", "methods/compression/quantization/torchao_int8_dynamic.py", "torchao.apply(work, self.name, config)", "torchao.apply(work, self.name, config)\n        work.model.classifier.weight.data = work.model.classifier.weight.data.bfloat16().float()", "torchao_int8_dynamic", "the head through bfloat16"),
    Mutant("torchao_int4_weight_only", _TORCHAO, "nn.Parameter(layer.weight.detach().bfloat16())", "nn.Parameter((1.01 * layer.weight.detach()).bfloat16())", "torchao_int4_weight_only(group_size=32)", "weights a percent too large"),
    Mutant("torchao_int4_weight_only", _TORCHAO, "bias = None if self.bias is None else self.bias.bfloat16()", "bias = None", "full >> torchao_int4_weight_only(group_size=32)", "biases left out of the product"),
    Mutant("torchao_int4_weight_only", _TORCHAO, "self.weight, bias).to(inputs.dtype)", "self.weight, bias).to(inputs.dtype) + (0 if self.bias is None else self.bias)", "full >> torchao_int4_weight_only(group_size=32)", "biases added twice"),
]  # fmt: skip
