"""Mistakes in what keeps a model from learning by heart, or makes it ready for what comes later."""

from tests.mutants.planting import Mutant

_AUGMENT = "methods/training/regularization/augment.py"
_DROPOUT = "methods/training/regularization/dropout.py"
_EMBEDDINGS = "methods/_embeddings.py"
_ENSEMBLE = "methods/training/regularization/ensemble.py"
_FAKE = "methods/training/compression_aware/_shared/fake_quantization.py"
_FAKING = "methods/training/compression_aware/qat_int8.py"
_GRADUAL = "methods/training/compression_aware/gradual.py"
_LABELS = "bench/tasks/kinds/classification.py"
_MASKS = "methods/_masks.py"
_MAGNITUDE = "methods/compression/pruning/magnitude.py"
_NEFTUNE = "methods/training/regularization/neftune.py"
_TOGETHER = "methods/training/regularization/_shared/ensemble.py"

_EDA, _SWAP = 'full + augment("eda")', 'full + augment("embedding_swap")'
_STEPS = {"budget": {"steps": 12}}
_PRUNE = "full + gradual(magnitude(0.5), every=3)"

MUTANTS = [
    # -- dropout
    Mutant("dropout", _DROPOUT, "            setattr(module, name, self.p)\n", "            setattr(module, name, min(self.p, 0.1))\n", "full + dropout(0.3)", "no more than the usual"),
    Mutant("dropout", "bench/models/architecture.py", 'if "dropout" in name and isinstance(value, float):', 'if "attention_dropout" in name and isinstance(value, float):', "full + dropout(0.3)", "attention has its own name", model="llama"),
    Mutant("dropout", _DROPOUT, "for module, name, _ in old:\n", "for module, name, _ in old[:-1]:\n", "full + dropout(0.3)", "the last one is left out"),
    Mutant("dropout", _DROPOUT, "for module, name, _ in old:\n", "for module, name, _ in [each for each in old if each[2]]:\n", "lora(r=2) + dropout(0.3)", "none where none was", model="llama"),
    Mutant("dropout", _DROPOUT, "            setattr(module, name, p)\n", "            setattr(module, name, self.p)\n", "full + dropout(0.3)", "the old probabilities do not come back"),
    Mutant("dropout", _DROPOUT, "        for module, name, p in training.state.get(self.name, ()):\n            setattr(module, name, p)\n", "        for module, name, p in training.state.get(self.name, ()):\n            setattr(module, name, 0.1)\n", "full + dropout(0.3)", "all have BERT's afterwards", model="llama"),
    Mutant("dropout", _DROPOUT, "setattr(module, name, self.p)", "setattr(module, name, 1 - self.p)", "full + dropout(0.3)", "the share that is kept"),
    # -- neftune
    Mutant("neftune", _NEFTUNE, "return self.alpha / math.sqrt(length * width)", "return self.alpha / math.sqrt(width)", "full + neftune", "the length is not in the bound"),
    Mutant("neftune", _NEFTUNE, "return self.alpha / math.sqrt(length * width)", "return self.alpha / math.sqrt(length)", "full + neftune", "the width is not in the bound"),
    Mutant("neftune", _NEFTUNE, "return self.alpha / math.sqrt(length * width)", "return self.alpha / (length * width)", "full + neftune", "no root in the bound"),
    Mutant("neftune", _NEFTUNE, "return self.alpha / math.sqrt(length * width)", "return self.alpha / math.sqrt(embedded.numel())", "full + neftune", "the batch is in the bound"),
    Mutant("neftune", _NEFTUNE, "torch.empty_like(output).uniform_(-bound, bound)", "torch.empty_like(output).uniform_(0, bound)", "full + neftune", "noise of one sign"),
    Mutant("neftune", _NEFTUNE, "torch.empty_like(output).uniform_(-bound, bound)", "torch.empty_like(output).normal_(0, bound / 2).clamp_(-bound, bound)", "full + neftune", "normal noise"),
    Mutant("neftune", _NEFTUNE, "torch.empty_like(output).uniform_(-bound, bound)", "torch.empty_like(output[:1, :1]).uniform_(-bound, bound)", "full + neftune", "all tokens have the same noise"),
    Mutant("neftune", _NEFTUNE, "torch.empty_like(output).uniform_(-bound, bound)", "torch.empty_like(output).uniform_(-bound, bound, generator=torch.Generator().manual_seed(0))", "full + neftune", "the same noise in each step"),
    Mutant("neftune", _NEFTUNE, "return output + torch.empty_like", "return output.detach() + torch.empty_like", "full + neftune", "embeddings get no gradient"),
    Mutant("neftune", _NEFTUNE, "        if not layer.training:\n            return output\n", "", "full + neftune", "noise in evaluation too"),
    Mutant("neftune", _NEFTUNE, "bound = self._bound(output)\n", "bound = NEFTune.alpha / self.alpha * self._bound(output)\n", "full + neftune(alpha=10.0)", "alpha is the default"),
    # -- augment
    Mutant("augment", _AUGMENT, "if rng.random() < self.p]", "if rng.random() < self.p / 3]", _EDA, "a third of the items change"),
    Mutant("augment", _AUGMENT, "if rng.random() < self.p]", "if rng.random() < self.p][:1]", _EDA, "one item of a batch changes"),
    Mutant("augment", _AUGMENT, "if rng.random() < self.p]", "]", _EDA, "all items change"),
    Mutant("augment", _AUGMENT, "count = max(1, int(self._alpha * len(words)))", "count = 1", 'full + augment("eda", alpha=0.5)', "one word whatever alpha is"),
    Mutant("augment", _AUGMENT, "count = max(1, int(self._alpha * len(words)))", "count = len(words)", _EDA, "as many changes as words"),
    Mutant("augment", _AUGMENT, 'operation = rng.choice(("swap", "delete", "insert"))', 'operation = "insert"', _EDA, "insertion alone"),
    Mutant("augment", _AUGMENT, 'operation = rng.choice(("swap", "delete", "insert"))', 'operation = rng.choice(("swap", "insert"))', _EDA, "nothing is deleted"),
    Mutant("augment", _AUGMENT, "rng.choice(rng.choice(texts).split() or words)", "words[0]", _EDA, "the first word is inserted"),
    Mutant("augment", _AUGMENT, 'rng = random.Random(f"{training.seed} {training.step} {batch.items}")', 'rng = random.Random(f"{training.seed} {batch.items}")', _EDA, "an item changes in the same way each time"),
    Mutant("augment", _AUGMENT, "dict(zip(chosen, changed, strict=True))", "dict(zip(chosen[::-1], changed, strict=True))", _EDA, "texts change places"),
    Mutant("augment", _LABELS, "EncodedTexts(tokenizer, [words], batch.labels, max_length)", "EncodedTexts(tokenizer, [words], batch.labels.flip(0), max_length)", _EDA, "labels change places"),
    Mutant("augment", _LABELS, "EncodedTexts(tokenizer, [words], batch.labels, max_length)", "EncodedTexts(tokenizer, [words], batch.labels, 128)", _EDA, "changed texts are not cut", keys={"budget": {"max_length": 10}}),
    Mutant("augment", _AUGMENT, "math.ceil(self._alpha * len(ordinary))", "1", 'full + augment("embedding_swap", alpha=0.5)', "one token whatever alpha is"),
    Mutant("augment", _AUGMENT, "cosines[range(len(old)), old] = -torch.inf", "cosines[range(len(old)), old] = torch.inf", 'full + augment("embedding_swap", k=2)', "a token may stay itself"),
    Mutant("augment", _AUGMENT, "cosines.topk(min(self.k or 10,", "cosines.topk(min(40,", 'full + augment("embedding_swap", k=2)', "neighbours that are far"),
    Mutant("augment", _AUGMENT, "cosines.topk(", "(-cosines).nan_to_num(posinf=-9e9).topk(", _SWAP, "the farthest for the nearest"),
    Mutant("augment", _AUGMENT, "vectors[old] @ vectors.T / vectors.norm(dim=1).clamp(min=1e-12)", "vectors[old] @ vectors.T", _SWAP, "products for cosines"),
    Mutant("augment", _AUGMENT, "return self.alpha or 0.1", "return 0.1", 'full + augment("embedding_swap", alpha=0.5)', "alpha is ignored"),
    # -- ensemble
    Mutant("ensemble", _ENSEMBLE, "manual_seed(training.seed + number)", "manual_seed(training.seed)", "full + ensemble(3)", "members but the first start alike"),
    Mutant("ensemble", _ENSEMBLE, "            _draw_anew(training, member, torch.Generator().manual_seed(training.seed + number))\n", "", "full + ensemble(2)", "members start alike"),
    Mutant("ensemble", _ENSEMBLE, "        shuffle([parameter for parameter in new if id(parameter) in head])\n", "        pass\n", "full + ensemble(2)", "heads start alike"),
    Mutant("ensemble", _ENSEMBLE, "losses.append(compute(batch, scale))", "losses.append(compute(batch, scale / self.k))", "full + ensemble(2)", "gradients are of the mean loss"),
    Mutant("ensemble", _ENSEMBLE, "return sum(losses[1:], losses[0]) / len(losses)", "return sum(losses[1:], losses[0])", "full + ensemble(2)", "the returned loss is a sum"),
    Mutant("ensemble", _ENSEMBLE, "member = copy.deepcopy(training.model, dict(frozen))", "member = copy.deepcopy(training.model)", "lora(r=2) + ensemble(2)", "frozen weights are copied"),
    Mutant("ensemble", _ENSEMBLE, "                losses.append(compute(batch, scale))", "                __import__('torch').manual_seed(training.step)\n                losses.append(compute(batch, scale))", "full + ensemble(2)", "members drop out alike"),
    Mutant("ensemble", _TOGETHER, ".logits.float().log_softmax(-1) for member", ".logits.float() for member", "full + ensemble(2)", "logits are averaged as if they were probabilities' logarithms"),
    Mutant("ensemble", _TOGETHER, "logits=logs.logsumexp(0) - torch.tensor(len(logs)).log()", "logits=logs.mean(0)", "full + ensemble(2)", "the mean of logarithms"),
    Mutant("ensemble", _TOGETHER, "for member in self.members])", "for member in self.members[:1]])", "full + ensemble(2)", "the first member answers"),
    Mutant("ensemble", _ENSEMBLE, "            shuffle(adapter)\n", "", "lora(r=2) + ensemble(2)", "adapters start alike"),
    # -- qat_int8
    Mutant("qat_int8", _FAKE, "nn.functional.linear(rounded(inputs), rounded(self.weight), self.bias)", "nn.functional.linear(inputs, rounded(self.weight), self.bias)", "full + qat_int8", "activations are not rounded"),
    Mutant("qat_int8", _FAKE, "nn.functional.linear(rounded(inputs), rounded(self.weight), self.bias)", "nn.functional.linear(rounded(inputs), self.weight, self.bias)", "full + qat_int8", "weights are not rounded"),
    Mutant("qat_int8", _FAKE, "nn.functional.linear(rounded(inputs), rounded(self.weight), self.bias)", "nn.functional.linear(rounded(inputs).detach(), rounded(self.weight), self.bias)", "full + qat_int8", "no gradient to what lies below"),
    Mutant("qat_int8", _FAKE, "rows.detach().abs().amax(1) / 127.5", "rows.detach().abs().amax(1) / 127", "full + qat_int8", "steps of a 127th"),
    Mutant("qat_int8", _FAKE, "rows.detach().abs().amax(1) / 127.5", "rows.detach().abs().amax().expand(len(rows)) / 127.5", "full + qat_int8", "one step for all rows"),
    Mutant("qat_int8", _FAKE, "zero, 0, -128, 127)", "zero, 0, -8, 7)", "full + qat_int8", "codes of 4 bits"),
    Mutant("qat_int8", _FAKE, "        if not self.training:\n            return super().forward(inputs)\n", "", "full + qat_int8 + early_stopping(patience=3, every=2)", "it rounds in evaluation too"),
    Mutant("qat_int8", _FAKING, "for layer in block_linears(training.model).values():\n            layer.__class__ = FakeInt8Linear", "for layer in list(block_linears(training.model).values())[:-1]:\n            layer.__class__ = FakeInt8Linear", "full + qat_int8", "one layer is left out"),
    Mutant("qat_int8", _FAKE, "rounded(self.weight), self.bias)", "rounded(self.weight) * 0.5 + rounded(self.weight).detach() * 0.5, self.bias)", "full + qat_int8", "half of the weights' gradient"),
    # -- gradual
    Mutant("gradual", _GRADUAL, "            _masks.restore(training.state.get(self.name, []))\n", "            pass\n", _PRUNE, "zeros regrow between prunings", keys=_STEPS),
    Mutant("gradual", _GRADUAL, "return self.target.amount * (1 - (1 - way) ** 3)", "return self.target.amount * way", _PRUNE, "a line for the cubic curve", keys=_STEPS),
    Mutant("gradual", _GRADUAL, "return self.target.amount * (1 - (1 - way) ** 3)", "return self.target.amount * way**3", _PRUNE, "slow at first", keys=_STEPS),
    Mutant("gradual", _GRADUAL, "return self.target.amount * (1 - (1 - way) ** 3)", "return self.target.amount", _PRUNE, "all at once", keys=_STEPS),
    Mutant("gradual", _GRADUAL, "last = max(int(first) + 1, round(self.end * steps))", "last = steps", _PRUNE, "it prunes to the last step", keys=_STEPS),
    Mutant("gradual", _GRADUAL, "(done % self.every and done != last)", "done != last", _PRUNE, "it prunes once, at the end", keys=_STEPS),
    Mutant("gradual", _GRADUAL, "first = self.begin * steps", "first = 0.0", "full + gradual(magnitude(0.5), begin=0.5, every=2)", "it begins at once", keys=_STEPS),
    Mutant("gradual", _GRADUAL, "            training.state[self.name] = _masks.masks(training)\n", "            training.state.setdefault(self.name, _masks.masks(training))\n", _PRUNE, "the first masks are kept", keys=_STEPS),
    Mutant("gradual", _MASKS, "            weight.mul_(mask)\n", "            weight.mul_(mask.any(1, keepdim=True))\n", _PRUNE, "only whole rows are put back", keys=_STEPS),
    Mutant("gradual", _MASKS, "for layer in layers(training.model).values() if layer.weight.requires_grad]", "for layer in list(layers(training.model).values())[1:] if layer.weight.requires_grad]", _PRUNE, "the first layer's zeros are not kept", keys=_STEPS),
]  # fmt: skip
