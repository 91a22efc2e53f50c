"""Mistakes in which weights are held at zero, and in how they stay there."""

from tests.mutants.planting import Mutant

_MASKS = "methods/_masks.py"
_OBS = "methods/compression/pruning/_shared/obs.py"
_STATISTICS = "methods/_statistics.py"
_MAGNITUDE = ("magnitude", "methods/compression/pruning/magnitude.py")
_WANDA = ("wanda", "methods/compression/pruning/wanda.py")
_SPARSEGPT = ("sparsegpt", "methods/compression/pruning/sparsegpt.py")
_SPARSE_2_4 = ("sparse_2_4", "methods/compression/pruning/sparse_2_4.py")

_LAYERS = 'for name, layer in block_linears(model).items() if "lora_" not in name'
_SCORES = "scores = layer.weight.detach().float().abs() * squares[name].sqrt()"
_TWO = "_masks.zero_lowest(layer, _scores(layer.weight.detach(), squares.get(name)), 2)"


def _wanda(old: str, new: str, why: str) -> Mutant:
    return Mutant(*_WANDA, old, new, "wanda(0.5, samples=16)", why)


_TORCHAO_WANDA = ("torchao_wanda", "methods/compression/pruning/torchao_wanda.py")
_TORCHAO = "torchao_wanda(0.5, samples=16)"


def _sparsegpt(file: str, old: str, new: str, why: str) -> Mutant:
    return Mutant("sparsegpt", file, old, new, "sparsegpt(0.5, samples=16)", why)


def _measured(method: str, recipe: str) -> list[Mutant]:
    """What can go wrong in measuring a layer's inputs."""
    return [
        Mutant(method, _STATISTICS, "calibration.batches(work)", 'work.batches("test")', recipe, "calibrated on the test split"),
        Mutant(
            method, _STATISTICS, "padded = mask is not None and", "padded = False and mask is not None and",
            recipe, "padding counts",
        ),
        Mutant(method, _STATISTICS, "-(-calibration.samples // work.budget.batch_size)", "1", recipe, "calibrated on one batch"),
        Mutant(
            method, _STATISTICS, "with evaluating(work.model), torch.no_grad():",
            "work.model.train()\n        with torch.no_grad():",
            recipe, "calibrated with dropout",
        ),
        Mutant(
            method, _STATISTICS, "sums[name] = sums[name] + found if name in sums else found", "sums[name] = found",
            recipe, "the last batch alone counts",
        ),
        Mutant(
            method, _STATISTICS, "see(name, rows(args or options", "see(name, rows(output) if rows(output).shape == rows(args).shape else rows(args or options",
            recipe, "outputs for inputs where they are as wide",
        ),
    ]  # fmt: skip


_MANY = "round(amount * sum(weight.numel() for weight in weights))"

MUTANTS = [
    Mutant(*_TORCHAO_WANDA, "number : number + 1, :length]", "number : number + 1]", _TORCHAO, "padding counts"),
    Mutant(*_TORCHAO_WANDA, "in _statistics.batches(work, self.calibration)", 'in [next(work.batches("test"))]', _TORCHAO, "calibrated on the test split"),
    Mutant(*_TORCHAO_WANDA, "sparsity_level=amount", "sparsity_level=amount - 0.01", _TORCHAO, "too few go"),
    Mutant(*_TORCHAO_WANDA, "sparsifier.step()", "sparsifier.prepare(work.model, [])", _TORCHAO, "nothing is chosen"),
    Mutant("magnitude", _MASKS, "piece.abs().float().view(torch.int32)", "piece.abs().float().reciprocal().view(torch.int32)", "magnitude(0.5)", "the largest go"),
    Mutant("magnitude", _MASKS, "piece.abs().float()", "piece.float().sub(piece.min())", "magnitude(0.5)", "the most negative go"),
    Mutant("magnitude", _MASKS, "bits < threshold", "bits < threshold - (threshold & 0xFFFF)", "magnitude(0.5)", "the first of two passes decides"),
    Mutant(*_MAGNITUDE, 'if layers and self.scope == "global"', 'if layers and self.scope == "layer"', "magnitude(0.5)", "in each layer alone"),
    Mutant(*_MAGNITUDE, 'if layers and self.scope == "global"', "if layers", 'magnitude(0.5, "layer")', "over all layers together"),
    Mutant(*_MAGNITUDE, _MANY, "round((amount - 8e-4) * sum(weight.numel() for weight in weights))", "magnitude(0.5)", "eight in ten thousand too few"),
    Mutant(*_MAGNITUDE, _MANY, f"{_MANY} // 2 * 2 - 2", "magnitude(0.5)", "two too few"),
    Mutant("magnitude", _MASKS, _LAYERS, f'{_LAYERS} and "layer.0" not in name', "magnitude(0.5)", "the first block left out"),
    Mutant("magnitude", _MASKS, _LAYERS, f'{_LAYERS} and "query" not in name', "magnitude(0.5)", "queries left out"),
    Mutant("magnitude", _MASKS, _LAYERS, f'{_LAYERS} and "layer.1.output" not in name', 'magnitude(0.5, "layer")', "the last layer left out"),
    Mutant(
        "magnitude", _MASKS, "return {name: layer " + _LAYERS + "}",
        "import torch\n    return {name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}",
        "magnitude(0.5)", "the pooler and the head too",
    ),
    Mutant(
        *_MAGNITUDE, "_masks.restore([(weight, ~zero)])",
        "_masks.restore([(weight, ~zero)])\n"
        "            [layer.bias.data.zero_() for layer in part.values() if layer.bias is not None]",
        "full >> magnitude(0.5)", "biases at zero too",
    ),
    Mutant("magnitude", _MASKS, "weight.mul_(mask)", "weight.mul_(mask).mul_(1.001)", "magnitude(0.5)", "what is kept grows"),
    Mutant("magnitude", _MASKS, "weight.mul_(mask)", "weight.mul_(mask.flip(0))", "magnitude(0.5)", "rows in the wrong order"),
    Mutant("magnitude", _MASKS, "weight.mul_(mask)", "weight.mul_(mask).copy_(weight.bfloat16())", "magnitude(0.5)", "what is kept passes through bfloat16"),
    Mutant(
        *_MAGNITUDE, "        for part in self._parts(_masks.layers(work.model)):\n            weights",
        "        work.model.get_input_embeddings().weight.data[5:].mul_(work.model.get_input_embeddings().weight.data[5:].abs() > 1e-2)\n"
        "        for part in self._parts(_masks.layers(work.model)):\n            weights",
        "magnitude(0.5)", "embeddings too",
    ),
    Mutant("magnitude", _MASKS, "(weight, weight.detach() != 0)", "(weight, weight.detach().abs() > 1e-3)", "magnitude(0.2) >> full", "the mask that is kept has more zeros"),
    Mutant("magnitude", _MASKS, "(weight, weight.detach() != 0)", "(weight, (weight.detach() != 0).flip(0))", "magnitude(0.5) >> full", "the mask that is kept is another"),
    Mutant("magnitude", _MASKS, "    return [(weight, weight.detach() != 0) for weight in weights]", "    return [(weight, weight.detach() != 0) for weight in weights[:-1]]", "magnitude(0.5) >> full", "the last layer's zeros are not kept"),
    Mutant("magnitude", _MASKS, "restore(training.state.get(self.name, []))", "training.step % 2 or restore(training.state.get(self.name, []))", "magnitude(0.5) >> full", "zeros are put back at every other step"),
    # -- by activations
    _wanda(_SCORES, _SCORES.removesuffix(".sqrt()"), "squares for norms"),
    _wanda(_SCORES, f"{_SCORES}.sqrt()", "roots of norms"),
    _wanda(_SCORES, _SCORES.partition(" *")[0], "by size alone"),
    _wanda("detach().float().abs()", "detach().float()", "signs count"),
    _wanda("detach().float().abs()", "detach().float().square()", "squares of the weights"),
    _wanda("round(amount * layer.in_features)", "int(amount * layer.in_features) - 1", "one too few in each row"),
    _wanda(_SCORES, f"{_SCORES}.view(1, -1)", "one row's worth in the whole layer"),
    _wanda(_SCORES, "scores = layer.weight.detach().float().abs() * squares[name].sqrt().flip(0)", "norms in the wrong order"),
    _wanda(
        "            for name, layer in block.items():", "            for name, layer in list(block.items())[1:]:",
        "the first layer of each block left out",
    ),
    _wanda("for block in _masks.by_block(work.model):", "for block in _masks.by_block(work.model)[:-1]:", "the last block left out"),
    _wanda(
        "        for block in _masks.by_block(work.model):\n            squares = _statistics.collect(work, block, self.calibration, _masks.squares)\n",
        "        squares = _statistics.collect(work, _masks.layers(work.model), self.calibration, _masks.squares)\n"
        "        for block in _masks.by_block(work.model):\n",
        "later blocks do not see the pruned ones",
    ),
    Mutant("wanda", _MASKS, "scores.topk(cut, dim=1, largest=False)", "scores.topk(cut, dim=1, largest=True)", "wanda(0.5, samples=16)", "the highest go"),
    Mutant("wanda", _MASKS, "return inputs.square().sum(0)", "return inputs.abs().sum(0).square()", "wanda(0.5, samples=16)", "sums for norms"),
    Mutant("wanda", _MASKS, "return inputs.square().sum(0)", "return inputs.square().mean(0)", "wanda(0.5, samples=16)", "a mean of each batch"),
    Mutant("wanda", _MASKS, "within = [{id(module) for module in block.modules()} for block in blocks(model)]", "within = [{id(module) for module in block.modules()} for block in list(blocks(model))[1:]]", "wanda(0.5, samples=16)", "the first block is not seen"),
    Mutant("wanda", _MASKS, _LAYERS, f'{_LAYERS} and "value" not in name', "wanda(0.5, samples=16)", "values left out"),
    *_measured("wanda", "wanda(0.5, samples=16)"),
    # -- the surgeon
    _sparsegpt(_OBS, "weight[:, column:stop] -= error[:, None] * inverse[column, column:stop]", "", "what is kept stays as it was"),
    _sparsegpt(_OBS, "weight[:, column:stop] -= error[:, None] * inverse[column, column:stop]", "weight[:, column:stop] -= 0.5 * error[:, None] * inverse[column, column:stop]", "half of what makes up"),
    _sparsegpt(_OBS, "(weight[:, seen] / inverse.diagonal()[seen]).square()", "weight[:, seen].square()", "by size alone"),
    _sparsegpt(_OBS, "(weight[:, seen] / inverse.diagonal()[seen]).square()", "(weight[:, seen] * inverse.diagonal()[seen]).square()", "times for divided by"),
    _sparsegpt(_OBS, "damp * gram", "100 * damp * gram", "a hundred times the damping"),
    _sparsegpt(_OBS, "hessian = gram +", "hessian = gram.diag().diag() +", "inputs as if independent"),
    _sparsegpt(_OBS, "torch.cholesky_inverse(torch.linalg.cholesky(hessian))", "hessian", "the inverse forgotten"),
    _sparsegpt(_SPARSEGPT[1], "largest=False", "largest=True", "the highest go"),
    _sparsegpt(_SPARSEGPT[1], "at_once=128", "at_once=8", "chosen eight columns at a time"),
    _sparsegpt(_SPARSEGPT[1], "round(amount * flat.numel())", "round((amount - 9e-4) * flat.numel())", "nine in ten thousand too few"),
    _sparsegpt(
        _SPARSEGPT[1], "products[name], choose", 'products[name] if "attention" in name else products[name].diag().diag(), choose',
        "attention alone makes up",
    ),
    _sparsegpt(
        _SPARSEGPT[1], "products[name], choose", 'products[name].diag().diag() if "key" in name else products[name], choose',
        "keys do not make up",
    ),
    _sparsegpt(
        _SPARSEGPT[1],
        "        for block in _masks.by_block(work.model):\n            products = _statistics.collect(work, block, self.calibration, _masks.products)\n",
        "        products = _statistics.collect(work, _masks.layers(work.model), self.calibration, _masks.products)\n"
        "        for block in _masks.by_block(work.model):\n",
        "later blocks do not see the pruned ones",
    ),
    _sparsegpt(_MASKS, _LAYERS, f'{_LAYERS} and "layer.0" not in name', "the first block left out"),
    Mutant("sparsegpt", _OBS, "lazy: int = 128", "lazy: int = 32", "sparsegpt(0.5, samples=16)", "chosen thirty-two columns at a time"),
    *_measured("sparsegpt", "sparsegpt(0.5, samples=16)"),
    # -- two of four
    Mutant(*_SPARSE_2_4, _TWO, _TWO.replace(", 2)", ", 1)"), "sparse_2_4", "one of four"),
    Mutant(*_SPARSE_2_4, _TWO, _TWO.replace(", 2)", ", 3)"), "sparse_2_4", "three of four"),
    Mutant(
        *_SPARSE_2_4, _TWO,
        "import torch\n                kept = torch.ones_like(layer.weight.T.reshape(-1, 4))\n"
        "                kept.scatter_(1, layer.weight.detach().T.reshape(-1, 4).abs().topk(2, dim=1, largest=False).indices, 0.0)\n"
        "                layer.weight.data.mul_(kept.view(layer.weight.T.shape).T)",
        "sparse_2_4", "along the wrong dimension",
    ),
    Mutant(*_SPARSE_2_4, _TWO, "_masks.zero_lowest(layer, layer.weight.detach().abs().view(-1, 8), 4)", "sparse_2_4", "four of eight"),
    Mutant(*_SPARSE_2_4, "sizes if squares is None else sizes * squares.sqrt()", "sizes", 'sparse_2_4("wanda", samples=16)', "by size alone"),
    Mutant(*_SPARSE_2_4, "sizes if squares is None else sizes * squares.sqrt()", "sizes if squares is None else sizes * squares", 'sparse_2_4("wanda", samples=16)', "squares for norms"),
    Mutant(*_SPARSE_2_4, "sizes = weight.float().abs()", "sizes = weight.float()", "sparse_2_4", "signs count"),
    Mutant(*_SPARSE_2_4, "return layer.in_features % 4 == 0", "return layer.in_features % 64 == 0", "sparse_2_4", "layers of 32 left out"),
    Mutant(*_SPARSE_2_4, "for block in _masks.by_block(work.model):", "for block in _masks.by_block(work.model)[1:]:", "sparse_2_4", "the first block left out"),
    Mutant("sparse_2_4", _MASKS, _LAYERS, f'{_LAYERS} and "output" not in name', "sparse_2_4", "outputs left out"),
    Mutant("sparse_2_4", _MASKS, "scores.topk(cut, dim=1, largest=False)", "scores.topk(cut, dim=1, largest=True)", "sparse_2_4", "the largest go"),
    Mutant(*_SPARSE_2_4, "scores.topk(2, dim=1, largest=False)", "scores.topk(2, dim=1, largest=True)", 'sparse_2_4("sparsegpt", samples=16)', "the highest go"),
    Mutant(*_SPARSE_2_4, "products[name], choose", 'products[name] if "attention" in name else products[name].diag().diag(), choose', 'sparse_2_4("sparsegpt", samples=16)', "attention alone makes up"),
    Mutant(*_SPARSE_2_4, "damp=0.01", "damp=1.0", 'sparse_2_4("sparsegpt", samples=16)', "a hundred times the damping"),
    Mutant("sparse_2_4", _STATISTICS, "padded = mask is not None and", "padded = False and mask is not None and", 'sparse_2_4("wanda", samples=16)', "padding counts"),
]  # fmt: skip
