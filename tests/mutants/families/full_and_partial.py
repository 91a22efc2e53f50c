"""Mistakes in which of a model's own weights train."""

from tests.mutants.planting import Mutant

_ADDED = "methods/_added.py"
_ARCHITECTURE = "bench/models/architecture.py"
_BITFIT = "methods/training/full_and_partial/bitfit.py"
_FULL = "methods/training/full_and_partial/full.py"
_TOKENS = "bench/tasks/tokens.py"
_HEAD = "methods/training/full_and_partial/head.py"
_LOOP = "bench/stage/loop.py"
_TOP = "methods/training/full_and_partial/top_layers.py"

_LOOPS = ("tests/bench/stage/test_loop.py",)
_TASKS = ("tests/bench/tasks/kinds/test_classification.py",)
_UNFREEZE = "training.model.requires_grad_(True)\n"
_EACH = "        for parameter in _head(training.model).values():\n            parameter.requires_grad_(True)\n"
_CHOSEN = (
    "        for parameter in _top(training.model, self.n).values():\n            parameter.requires_grad_(True)\n"
)

MUTANTS = [
    # -- full
    Mutant(
        "full", _FULL, _UNFREEZE,
        "for name, parameter in training.model.named_parameters():\n            parameter.requires_grad_(not name.endswith('bias'))\n",
        "full", "biases stay frozen",
    ),
    Mutant(
        "full", _FULL, _UNFREEZE,
        "for name, parameter in training.model.named_parameters():\n            parameter.requires_grad_('LayerNorm' not in name)\n",
        "full", "norms stay frozen",
    ),
    Mutant(
        "full", _FULL, _UNFREEZE,
        "for name, parameter in training.model.named_parameters():\n            parameter.requires_grad_(parameter.dim() >= 2)\n",
        "full", "vectors stay frozen",
    ),
    Mutant(
        "full", _FULL, _UNFREEZE,
        "for name, parameter in training.model.named_parameters():\n            parameter.requires_grad_('embeddings' not in name)\n",
        "full", "embeddings stay frozen",
    ),
    Mutant(
        "full", _FULL, _UNFREEZE,
        "for name, parameter in training.model.named_parameters():\n            parameter.requires_grad_(name != 'classifier.bias')\n",
        "full", "the head's bias stays frozen",
    ),
    Mutant(
        "full", _FULL, _UNFREEZE,
        "training.model.requires_grad_(True)\n        for name, parameter in training.model.named_parameters():\n            if 'LayerNorm' in name:\n                parameter.register_hook(lambda gradient: gradient * 0)\n",
        "full", "norms get no gradient",
    ),
    Mutant(
        "full", _LOOP, 'self.groups = [{"params": self.parameters}]', 'self.groups = [{"params": [p for p in self.parameters if p.dim() >= 2]}]',
        "full", "the optimizer has the matrices alone",
    ),
    Mutant(
        "full", _LOOP, "            loss = gradients(batch, _ONE)\n            update()\n", "            loss = gradients(batch, _ONE)\n            if step % 2:\n                update()\n",
        "full", "every second step updates",
    ),
    Mutant(
        "full", _LOOP, "        self.optimizer.zero_grad(set_to_none=True)\n\n    def _optimizer", "\n    def _optimizer",
        "full", "gradients are never zeroed",
    ),
    Mutant(
        "full", _LOOP, "            self.tokens.append(batch.tokens)\n", "            self.tokens.append(batch.inputs['input_ids'].numel())\n",
        "full", "padding is counted as tokens",
    ),
    Mutant(
        "full", _LOOP, "            self.samples.append(batch.samples)\n", "            self.samples.append(batch.tokens)\n",
        "full", "tokens are counted as samples",
    ),
    Mutant(
        "full", _LOOP, "            self.losses.append(loss)\n", "            self.losses.append(loss * batch.samples)\n",
        "full", "the recorded loss is a sum", tests=_LOOPS,
    ),
    Mutant(
        "full", _TOKENS, "lengths = tuple(int(self.lengths[item]) for item in items)", "lengths = (int(max(self.lengths[item] for item in items)),) * len(items)",
        "full", "padding is counted in an item's length",
    ),
    Mutant(
        "full", _TOKENS, 'inputs["attention_mask"] = real(lengths)', 'inputs["attention_mask"] = real(lengths) * 0 + 1',
        "full", "padding is attended to",
    ),
    Mutant(
        "full", _TOKENS, "truncation=True, max_length=max_length, return_attention_mask", "truncation=True, max_length=max_length // 2, return_attention_mask",
        "full", "texts are cut at half of the length", tests=_TASKS,
    ),
    Mutant(
        "full", _TOKENS, "self.targets[torch.tensor(items)]", "self.targets[torch.tensor(items).sort().values]",
        "full", "labels are in another order than texts", tests=_TASKS,
    ),
    Mutant(
        "full", "bench/stage/work.py", 'def batches(self, split: Split = "train",', 'def batches(self, split: Split = "test",',
        "full", "it trains on the test split",
    ),
    Mutant(
        "full", "bench/tasks/texts.py", "order = shuffled(len(encoded), generator)", "order = shuffled(len(encoded) // 2, generator)",
        "full", "it trains on the first half alone", tests=_TASKS,
    ),
    # -- head
    Mutant(
        "head", _HEAD, _EACH,
        "        for name, parameter in _head(training.model).items():\n            parameter.requires_grad_(parameter.dim() >= 2)\n",
        "head", "the head's bias stays frozen",
    ),
    Mutant(
        "head", _HEAD, _EACH,
        "        for name, parameter in training.model.named_parameters():\n            parameter.requires_grad_('encoder' not in name and 'embeddings' not in name)\n",
        "head", "the pooler trains too",
    ),
    Mutant(
        "head", _HEAD, _EACH,
        "        for parameter in _head(training.model).values():\n            parameter.requires_grad_(True)\n        training.model.get_input_embeddings().requires_grad_(True)\n",
        "head", "embeddings train too",
    ),
    Mutant(
        "head", _HEAD, _EACH,
        "        for parameter in _head(training.model).values():\n            parameter.requires_grad_(True)\n            parameter.register_hook(lambda gradient: gradient if gradient.dim() > 1 else gradient * 0)\n",
        "head", "the head's bias gets no gradient",
    ),
    # -- top_layers
    Mutant(
        "top_layers", _TOP, "for block in list(found)[-n:] for parameter", "for block in list(found)[:n] for parameter",
        "top_layers(1)", "the first blocks train",
    ),
    Mutant(
        "top_layers", _TOP, "for block in list(found)[-n:] for parameter", "for block in list(found)[-n - 1:] for parameter",
        "top_layers(1)", "a block more trains",
    ),
    Mutant(
        "top_layers", _TOP, "return inside | after_blocks(model)", "return inside",
        "top_layers(1)", "only blocks train",
    ),
    Mutant(
        "top_layers", _TOP, "return inside | after_blocks(model)", "return inside | {name: p for name, p in after_blocks(model).items() if 'pooler' not in name}",
        "top_layers(1)", "the pooler stays frozen",
    ),
    Mutant(
        "top_layers", _TOP, _CHOSEN,
        "        for parameter in _top(training.model, self.n).values():\n            parameter.requires_grad_(parameter.dim() >= 2)\n",
        "top_layers(1)", "vectors stay frozen",
    ),
    Mutant(
        "top_layers", _TOP, _CHOSEN,
        "        for name, parameter in _top(training.model, self.n).items():\n            parameter.requires_grad_('LayerNorm' not in name)\n",
        "top_layers(1)", "norms stay frozen",
    ),
    Mutant(
        "top_layers", _TOP, "return inside | after_blocks(model)", "return inside | after_blocks(model) | dict(model.get_input_embeddings().named_parameters())",
        "top_layers(1)", "embeddings train too",
    ),
    Mutant(
        "top_layers", _ARCHITECTURE, "return {name: parameter for name, parameter in named[last + 1 :] if id(parameter) not in embedded}",
        "return {name: parameter for name, parameter in named[last + 2 :] if id(parameter) not in embedded}",
        "top_layers(1)", "the first tensor after the blocks is left out",
    ),
    # -- bitfit
    Mutant(
        "bitfit", _BITFIT, "parameter.requires_grad_(_is_bias(name))", "parameter.requires_grad_(_is_bias(name) and 'LayerNorm' not in name)",
        "bitfit", "biases of norms stay frozen",
    ),
    Mutant(
        "bitfit", _BITFIT, "parameter.requires_grad_(_is_bias(name))", "parameter.requires_grad_(_is_bias(name) and 'query' not in name)",
        "bitfit", "biases of queries stay frozen",
    ),
    Mutant(
        "bitfit", _BITFIT, "parameter.requires_grad_(_is_bias(name))", "parameter.requires_grad_(_is_bias(name) and 'layer.0' not in name)",
        "bitfit", "biases of the first block stay frozen",
    ),
    Mutant(
        "bitfit", _BITFIT, 'return name.rpartition(".")[2] == "bias"', 'return name.rpartition(".")[2] == "bias" and "output" not in name',
        "bitfit", "biases of outputs are none",
    ),
    Mutant(
        "bitfit", _BITFIT, 'return name.rpartition(".")[2] == "bias"', 'return "bias" in name or "LayerNorm" in name',
        "bitfit", "scales of norms train too",
    ),
    Mutant(
        "bitfit", _BITFIT, "        for parameter in _added.new_weights(training.model).values():\n            parameter.requires_grad_(True)\n", "",
        "bitfit", "the new head's weight stays frozen",
    ),
    Mutant(
        "bitfit", _ADDED, "return head | new_parameters(model)", "return {}",
        "bitfit", "no head is new",
    ),
]  # fmt: skip
