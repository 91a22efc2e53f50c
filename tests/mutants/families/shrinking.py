"""Mistakes in how layers are made smaller: heads, neurons, channels, blocks, ranks."""

from tests.mutants.planting import Mutant

_STRUCTURED = "methods/_structured.py"
_STATISTICS = "methods/_statistics.py"
_FFN = ("prune_ffn", "methods/compression/pruning/prune_ffn.py")
_HEADS = ("prune_heads", "methods/compression/pruning/prune_heads.py")
_HIDDEN = ("prune_hidden", "methods/compression/pruning/prune_hidden.py")
_DROP = ("drop_layers", "methods/compression/pruning/drop_layers.py")
_LOW = ("low_rank", "methods/compression/low_rank/low_rank.py")

_ORDER = "list(range(layer.out_features)))).argsort().tolist()"
_TAYLOR = '    if importance == "taylor":\n        _statistics.gradients(work, SAMPLES)\n        return torch_pruning.importance.GroupTaylorImportance()  # type: ignore[no-any-return]\n'
_PROSE = {"task": "prose"}
_RANK = 'singular values."""\n        if self.rank is not None:\n            return min(self.rank, len(singular))'


def _importance(method: str, recipe: str) -> list[Mutant]:
    """What can go wrong in ranking units by torch-pruning."""
    taylor = recipe.replace(")", ', "taylor")')
    return [
        Mutant(method, _STRUCTURED, _ORDER, _ORDER.replace("argsort()", "argsort(descending=True)"), recipe, "the most important go"),
        Mutant(method, _STRUCTURED, _ORDER, _ORDER.replace("argsort()", "argsort(descending=True)"), taylor, "the most important go by gradients"),
        Mutant(method, _STRUCTURED, _ORDER, _ORDER.replace(".argsort()", ".argsort().roll(1)"), recipe, "one of the most important goes"),
        Mutant(method, _STRUCTURED, "GroupMagnitudeImportance(p=2)", "GroupMagnitudeImportance(p=1)", recipe, "sums of magnitudes for norms"),
        Mutant(method, _STRUCTURED, "GroupMagnitudeImportance(p=2)", 'GroupMagnitudeImportance(p=2, group_reduction="first")', recipe, "the layer's own weights alone"),
        Mutant(method, _STRUCTURED, "GroupMagnitudeImportance(p=2)", "RandomImportance()", recipe, "drawn, not ranked"),
        Mutant(method, _STRUCTURED, _TAYLOR, "", taylor, "taylor is l2"),
        Mutant(method, _STRUCTURED, "GroupTaylorImportance()", "GroupTaylorImportance(multivariable=True)", taylor, "gradients cancel out"),
        Mutant(method, _STRUCTURED, "SAMPLES = 128", "SAMPLES = 8", taylor, "gradients of a batch"),
        Mutant(method, _STATISTICS, "work.task.criterion(work.outputs(batch), batch).backward()", "work.model.zero_grad(); work.task.criterion(work.outputs(batch), batch).backward()", taylor, "gradients of the last batch"),
        Mutant(method, _STATISTICS, "calibration.batches(work)", 'work.batches("test")', taylor, "gradients of the test split"),
        Mutant(method, _STATISTICS, "work.task.criterion(work.outputs(batch), batch).backward()", "work.outputs(batch).logits.sum().backward()", taylor, "gradients of the logits"),
        Mutant(method, _STRUCTURED, "torch.rand(len(group[0].idxs), generator=generator)", "torch.arange(float(len(group[0].idxs)))", recipe.replace(")", ', "random")'), "the first go, not drawn"),
        Mutant(method, _STRUCTURED, 'if importance == "random":\n        generator = torch.Generator().manual_seed(work.seed)\n        return', "if False:\n        generator = torch.Generator()\n        return", recipe.replace(")", ', "random")'), "random is l2"),
    ]  # fmt: skip


MUTANTS = [
    *_importance("prune_ffn", "prune_ffn(0.5)"),
    Mutant("prune_ffn", _STRUCTURED, "max(1, round(units * amount))", "max(1, int(units * amount) - 1)", "prune_ffn(0.4)", "one too few"),
    Mutant("prune_ffn", _STRUCTURED, "max(1, round(units * amount))", "max(1, int(units * amount))", "prune_ffn(0.4)", "rounded down"),
    Mutant(*_FFN, "for up, _ in feed_forward(work.model):", "for up, _ in feed_forward(work.model)[1:]:", "prune_ffn(0.5)", "the first block left out"),
    Mutant(*_FFN, "setattr(unwrapped(work.model).config, name, up[0].out_features)", "setattr(unwrapped(work.model).config, name, up[0].in_features * 4)", "prune_ffn(0.5)", "the configuration tells another width"),
    Mutant(
        *_FFN, "setattr(unwrapped(work.model).config, name, up[0].out_features)",
        "setattr(unwrapped(work.model).config, name, up[0].out_features)\n        up[0].weight.data = up[0].weight.data.flip(0)",
        "prune_ffn(0.5)", "the last block's neurons in another order",
    ),
    Mutant(
        *_FFN, "setattr(unwrapped(work.model).config, name, up[0].out_features)",
        "setattr(unwrapped(work.model).config, name, up[0].out_features)\n        up[0].bias.data.zero_()",
        "full >> prune_ffn(0.5)", "biases lost",
    ),
    # -- heads
    Mutant(*_HEADS, ".sum(1).argsort().tolist()", ".sum(1).argsort(descending=True).tolist()", "prune_heads(0.5)", "the most important go"),
    Mutant(*_HEADS, ".sum(1).argsort().tolist()", ".sum(1).argsort(descending=True).tolist()", 'prune_heads(0.5, "taylor")', "the most important go by gradients"),
    Mutant(*_HEADS, "weight.detach().float().square()", "weight.detach().float()", "prune_heads(0.5)", "sums for norms", model="llama", keys=_PROSE),
    Mutant(*_HEADS, "weights = [member for member in group if len(shapes[member.tensor]) == 2]", "weights = [member for member in group if len(shapes[member.tensor]) == 2][:1]", "prune_heads(0.5)", "queries alone are ranked", model="llama", keys=_PROSE),
    Mutant(*_HEADS, "(weight.detach() * cast(\"torch.Tensor\", weight.grad)).abs()", "weight.detach().float().square()", 'prune_heads(0.5, "taylor")', "taylor is l2", model="llama", keys=_PROSE),
    Mutant(*_HEADS, "(weight.detach() * cast(\"torch.Tensor\", weight.grad)).abs()", "weight.grad.abs()", 'prune_heads(0.5, "taylor")', "gradients without their weights", model="llama", keys=_PROSE),
    Mutant(*_HEADS, "(weight.detach() * cast(\"torch.Tensor\", weight.grad)).abs()", "weight.detach() * weight.grad", 'prune_heads(0.5, "taylor")', "gradients cancel out"),
    Mutant(*_HEADS, "_statistics.gradients(work, _structured.SAMPLES)", "_statistics.gradients(work, 1)", 'prune_heads(0.5, "taylor")', "gradients of a batch"),
    Mutant(*_HEADS, 'if importance == "random":', "if False:", 'prune_heads(0.5, "random")', "random is l2", model="llama", keys=_PROSE),
    Mutant(*_HEADS, "torch.rand(weight.shape, generator=generator)", "torch.ones(weight.shape)", 'prune_heads(0.5, "random")', "nothing is drawn", model="llama", keys=_PROSE),
    Mutant(*_HEADS, "strict=True):\n            weights", "strict=True):\n            if found is attention(work.model)[0]: continue\n            weights", "prune_heads(0.5)", "the first block left out"),
    Mutant(*_HEADS, "torch_pruning.prune_linear_in_channels(found.output, asking)", "torch_pruning.prune_linear_in_channels(found.output, [found.output.in_features - 1 - place for place in asking])", "prune_heads(0.5)", "outputs of other heads go"),
    Mutant(*_HEADS, "for layer in (found.key, found.value):\n            torch_pruning", "for layer in (found.key,):\n            torch_pruning.prune_linear_out_channels(found.value, _places([found.key_value_heads - 1 - unit for unit in going], found.head_dim))\n            torch_pruning", "prune_heads(0.5)", "values of other heads go"),
    Mutant(*_HEADS, "_places(going, found.head_dim * sharing)", "[unit + place * 2 for unit in going for place in range(found.head_dim * sharing)]", "prune_heads(0.5)", "heads are cut across"),
    Mutant(*_HEADS, "config.num_attention_heads = found.heads", "pass", "prune_heads(0.5)", "the configuration tells the old number"),
    Mutant("prune_heads", _STRUCTURED, "max(1, round(units * amount))", "max(1, int(units * amount))", "prune_heads(0.9)", "rounded down"),
    # -- channels
    *_importance("prune_hidden", "prune_hidden(0.25)"),
    Mutant(*_HIDDEN, "if layer not in inside:", "if False:", "prune_hidden(0.25)", "the pooler stays as wide"),
    Mutant(*_HIDDEN, "if layer not in inside:", "if layer not in inside and not setattr(layer, 'weight', type(layer.weight)(layer.weight.flip(0))):", "prune_hidden(0.25)", "the pooler's rows in another order"),
    Mutant("prune_hidden", _STRUCTURED, "max(1, round(units * amount))", "max(1, int(units * amount))", "prune_hidden(0.3)", "rounded down"),
    Mutant("prune_hidden", _STRUCTURED, "sorted(order[: cut_of(layer.out_features, amount)])", "list(range(cut_of(layer.out_features, amount)))", "prune_hidden(0.25)", "the first channels go"),
    # -- blocks
    Mutant(*_DROP, "set(candidates[-self.n :])", "set(candidates[: self.n])", "drop_layers(1)", "the first go"),
    Mutant(*_DROP, 'range(count) if self.by == "last"', 'range(count - 1) if self.by == "last"', "drop_layers(1)", "the last stays"),
    Mutant(*_DROP, "range(1, count, 2)", "range(0, count, 2)", 'drop_layers(1, "every_other")', "every other from the first"),
    Mutant(*_DROP, 'if self.by == "similarity":\n            return set(', "if False:\n            return set(", 'drop_layers(1, "similarity", samples=16)', "the last whatever is asked for", model="llama", keys=_PROSE),
    Mutant(*_DROP, "key=lambda number: influence[number])", "key=lambda number: -influence[number])", 'drop_layers(1, "similarity", samples=16)', "those that change most go"),
    Mutant(*_DROP, "torch.cosine_similarity(inputs, outputs, dim=-1)", "torch.cosine_similarity(inputs, outputs, dim=-1).abs().neg()", 'drop_layers(1, "similarity", samples=16)', "similarity with its sign turned"),
    Mutant(*_DROP, "torch.cosine_similarity(inputs, outputs, dim=-1)", "outputs.norm(dim=-1) / inputs.norm(dim=-1)", 'drop_layers(1, "similarity", samples=16)', "lengths for cosines", model="llama", keys=_PROSE),
    Mutant(*_DROP, "if number not in going], kinds)", "if number not in going][::-1], kinds)", "drop_layers(1)", "turned round"),
    Mutant(*_DROP, "        whole.without(going).put(work.model)", "        whole.without(going).put(work.model)\n        blocks_ = _Depth.of(work.model).blocks\n        blocks_[0].load_state_dict(whole.blocks[-1].state_dict())", "drop_layers(1)", "the first has the last one's weights"),
    Mutant(*_DROP, "sizes.num_hidden_layers = len(self.blocks)", "pass", "drop_layers(1)", "the configuration tells the old number"),
    Mutant(*_DROP, "going = self._going(self._influence(work), count)", "going = set(range(count - self.n - 1, count - 1)) if count > self.n else set()", "drop_layers(1)", "the last but one goes"),
    # -- ranks
    Mutant(*_LOW, "right[:rank], None", "right[-rank:], None", "low_rank(4)", "right singular vectors of the wrong end"),
    Mutant(
        *_LOW,
        "root = singular[:rank].sqrt()\n            down = _linear(root[:, None] * right[:rank], None)\n            up = _linear(left[:, :rank] * root,",
        "root = singular[-rank:].sqrt()\n            down = _linear(root[:, None] * right[-rank:], None)\n            up = _linear(left[:, -rank:] * root,",
        "low_rank(4)", "the smallest singular values",
    ),
    Mutant(*_LOW, "root = singular[:rank].sqrt()\n            down = _linear(root[:, None] * right[:rank], None)\n            up = _linear(left[:, :rank] * root,", "root = singular[:rank]\n            down = _linear(right[:rank], None)\n            up = _linear(left[:, :rank] * root,", "low_rank(4)", "all of the size in one factor"),
    Mutant(*_LOW, _RANK, _RANK.replace("min(self.rank, len(singular))", "max(1, self.rank - 1)"), "low_rank(4)", "a rank less than asked for"),
    Mutant(*_LOW, _RANK, _RANK + " // 2", "low_rank(4)", "half the rank"),
    Mutant(*_LOW, "singular.double().square().cumsum(0)", "singular.double().cumsum(0)", "low_rank(energy=0.5)", "singular values, not their squares"),
    Mutant(*_LOW, "(kept < self.energy * kept[-1]).sum()) + 1", "(kept < self.energy * kept[-1]).sum()) + 2", "low_rank(energy=0.3)", "a rank more than needed"),
    Mutant(*_LOW, "(kept < self.energy * kept[-1])", "(kept < self.energy**2 * kept[-1])", "low_rank(energy=0.5)", "the energy squared"),
    Mutant(*_LOW, "return rank * sum(shape) < prod(shape)", "return rank * sum(shape) < prod(shape) and shape[0] == shape[1]", "low_rank(4)", "only square layers"),
    Mutant(*_LOW, "return rank * sum(shape) < prod(shape)", "return rank * sum(shape) < prod(shape) / 2", "low_rank(9)", "only those that get half as large"),
    Mutant(*_LOW, "return rank * sum(shape) < prod(shape)", "return rank * sum(shape) < prod(shape) / 2", "low_rank(energy=0.6)", "only those that get half as large by energy"),
    Mutant(*_LOW, "return rank * sum(shape) < prod(shape)", "return True", "low_rank(energy=0.9)", "those too that get larger"),
    Mutant(*_LOW, "in block_linears(work.model).items():", "in list(block_linears(work.model).items())[1:]:", "low_rank(energy=0.3)", "the first layer left out"),
    Mutant(*_LOW, "in block_linears(work.model).items():", "in list(block_linears(work.model).items())[:-1]:", "low_rank(4)", "the last layer left out"),
    Mutant(*_LOW, "root, layer.bias)", "root, None)", "full >> low_rank(4)", "biases dropped"),
    Mutant(*_LOW, "root, layer.bias)", "root, None if layer.bias is None else nn.Parameter(2 * layer.bias.detach()))", "full >> low_rank(4)", "biases doubled"),
    Mutant(*_LOW, "torch.linalg.svd(weight.float(), full_matrices=False)", "torch.linalg.svd(weight.bfloat16().float(), full_matrices=False)", "low_rank(4)", "weights through bfloat16"),
    Mutant(*_LOW, "torch.linalg.svd(weight.float(), full_matrices=False)", "torch.linalg.svd(weight.float() - weight.float().mean(), full_matrices=False)", "low_rank(4)", "weights centred"),
]  # fmt: skip
