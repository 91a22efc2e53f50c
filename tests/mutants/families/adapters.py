"""Mistakes in what is added to a frozen model, and trained."""

from tests.mutants.planting import Mutant

_ADALORA = "methods/training/adapters/adalora.py"
_ADAPTER = "methods/training/adapters/adapter.py"
_ADDED = "methods/_added.py"
_BOTTLENECK = "methods/training/adapters/_shared/bottleneck.py"
_IA3 = "methods/training/adapters/ia3.py"
_LORA = "methods/training/adapters/lora.py"
_ON = "methods/_peft.py"
_PEFT = "methods/training/adapters/peft.py"
_PREFIX = "methods/training/adapters/prefix.py"
_PROMPT = "methods/training/adapters/prompt.py"

_ATTACH = "        training.model = load().get_peft_model(training.model, config)\n"
_TARGETS = 'target_modules=list(self.targets or targets(training.model, "LORA")),'
_ADA = _TARGETS.replace("LORA", "ADALORA")

MUTANTS = [
    # -- lora
    Mutant("lora", _LORA, "lora_dropout=self.dropout,", "lora_dropout=0.0,", "lora(r=2, dropout=0.3)", "dropout is ignored"),
    Mutant("lora", _LORA, "lora_dropout=self.dropout,", "lora_dropout=0.1,", "lora(r=2)", "dropout that nobody asked for"),
    Mutant("lora", _LORA, _TARGETS, _TARGETS.replace("self.targets or ", ""), 'lora(r=2, targets=["key", "value"])', "targets are ignored"),
    Mutant("lora", _LORA, _TARGETS, "target_modules=list(self.targets)[:1],",
           'lora(r=2, targets=["query", "key"])', "the first target alone is taken"),
    Mutant("lora", _LORA, _TARGETS, 'target_modules=list(self.targets) if self.targets else "all-linear",',
           "lora(r=2)", "all linear layers where no target is named"),
    Mutant("lora", _LORA, _TARGETS, _TARGETS + "\n            layers_to_transform=[0],", "lora(r=2)", "only the first block is adapted"),
    Mutant("lora", _LORA, "lora_alpha=self._alpha,", "lora_alpha=self.r,", "lora(r=2, alpha=8)", "alpha is the rank"),
    Mutant("lora", _LORA, "lora_alpha=self._alpha,", "lora_alpha=16,", "lora(r=2)", "alpha is PEFT's default of old"),
    Mutant("lora", _LORA, "r=self.r,\n", "r=max(1, self.r // 2),\n", "lora(r=4)", "half of the rank"),
    Mutant("lora", _LORA, 'use_rslora=self.variant == "rslora",', "", 'lora(r=4, variant="rslora")', "rslora is plain"),
    Mutant("lora", _LORA, 'use_dora=self.variant == "dora",', "", 'lora(r=4, variant="dora")', "dora is plain"),
    Mutant("lora", _LORA, 'init_lora_weights="pissa" if self.variant == "pissa" else True,', 'init_lora_weights=True,',
           'lora(r=4, variant="pissa")', "pissa starts as plain LoRA"),
    Mutant("lora", _LORA, 'init_lora_weights="pissa" if self.variant == "pissa" else True,', 'init_lora_weights="pissa" if self.variant == "pissa" else False,',
           "lora(r=4)", "updates do not start at zero"),
    Mutant("lora", _LORA, 'init_lora_weights="pissa" if self.variant == "pissa" else True,', 'init_lora_weights="pissa" if self.variant == "pissa" else "orthogonal",',
           "lora(r=4)", "updates start elsewhere"),
    Mutant("lora", _LORA, '            init_lora_weights="pissa" if', '            bias="lora_only",\n            init_lora_weights="pissa" if',
           "lora(r=4)", "biases of adapted layers train"),
    Mutant("lora", _LORA, "        _peft.attach(training, config)\n",
           "        _peft.attach(training, config)\n        for name, parameter in training.model.named_parameters():\n            if 'modules_to_save' in name:\n                parameter.requires_grad_(False)\n",
           "lora(r=2)", "the new head stays frozen"),
    Mutant("lora", _LORA, "        _peft.attach(training, config)\n",
           "        _peft.attach(training, config)\n        for name, parameter in training.model.named_parameters():\n            if 'lora_A' in name:\n                parameter.requires_grad_(False)\n",
           "lora(r=2)", "A stays frozen"),
    Mutant("lora", _LORA, "        _peft.attach(training, config)\n",
           "        _peft.attach(training, config)\n        for name, parameter in training.model.named_parameters():\n            if 'layer.1' in name:\n                parameter.requires_grad_(False)\n",
           "lora(r=2)", "one block's update stays frozen"),
    Mutant("lora", _ON, "task_type=training.task.peft_task_type, **options", "task_type=None, **options", "lora(r=2)", "PEFT does not hear of the head"),
    Mutant("lora", _ON, _ATTACH, _ATTACH + "        training.model.merge_adapter() if hasattr(training.model, 'merge_adapter') else None\n",
           "lora(r=2)", "the update is folded in while it trains"),
    # -- adalora
    Mutant("adalora", _ADALORA, "lora_dropout=self.dropout,", "lora_dropout=0.0,", "adalora(init_r=4, target_r=2, dropout=0.3)", "dropout is ignored"),
    Mutant("adalora", _ADALORA, _ADA, _ADA.replace("self.targets or ", ""), 'adalora(init_r=4, target_r=2, targets=["key"])', "targets are ignored"),
    Mutant("adalora", _ADALORA, "lora_alpha=self.alpha or 2 * self.init_r,", "lora_alpha=2 * self.init_r,", "adalora(init_r=4, target_r=2, alpha=2.0)", "alpha is ignored"),
    Mutant("adalora", _ADALORA, "lora_alpha=self.alpha or 2 * self.init_r,", "lora_alpha=self.alpha or 8,", "adalora(init_r=8, target_r=2)", "alpha is PEFT's default"),
    Mutant("adalora", _ADALORA, "lora_alpha=self.alpha or 2 * self.init_r,", "lora_alpha=(self.alpha or 2 * self.init_r) / self.target_r,", "adalora(init_r=4, target_r=2)", "alpha is divided by the target"),
    Mutant("adalora", _ADALORA, "            deltaT=max(1, steps // 1000),\n", "            deltaT=max(1, steps // 1000),\n            beta1=0.5,\n            beta2=0.5,\n",
           "adalora(init_r=4, target_r=2)", "importance has no memory"),
    Mutant("adalora", _ADALORA, "            deltaT=max(1, steps // 1000),\n", "            deltaT=max(1, steps // 2),\n",
           "adalora(init_r=4, target_r=2)", "all is pruned at once"),
    Mutant("adalora", _ADALORA, "lambda *step: tuner.update_and_allocate(seen.steps - 1)",
           "lambda *step: ([p.grad.mul_(0).add_(1) for p in training.parameters if p.grad is not None], tuner.update_and_allocate(seen.steps - 1))",
           "adalora(init_r=4, target_r=2)", "importance goes by size alone"),
    Mutant("adalora", _ADALORA, "lambda *step: tuner.update_and_allocate(seen.steps - 1)",
           "lambda *step: ([p.grad.normal_() for p in training.parameters if p.grad is not None], tuner.update_and_allocate(seen.steps - 1))",
           "adalora(init_r=4, target_r=2)", "importance is drawn"),
    Mutant("adalora", _ADALORA, "            target_r=self.target_r,\n", "            target_r=self.target_r - 1,\n", "adalora(init_r=4, target_r=2)", "one rank too few is left"),
    Mutant("adalora", _ADALORA, "            orth_reg_weight=self.orth_reg_weight,\n", "            orth_reg_weight=2 * self.orth_reg_weight,\n", "adalora(init_r=4, target_r=2)", "the penalty counts twice"),
    Mutant("adalora", _ADALORA, "config.orth_reg_weight * _penalty(singular)", "config.orth_reg_weight * _penalty(singular).detach()", "adalora(init_r=4, target_r=2)", "the penalty has no gradient"),
    Mutant("adalora", _ADALORA, 'if "lora_A" in name or "lora_B" in name]', 'if "lora_A" in name]', "adalora(init_r=4, target_r=2)", "the penalty is on one side alone"),
    Mutant("adalora", _ADALORA, "torch.linalg.matrix_norm(square - eye) for square in squares]).mean()", "torch.linalg.matrix_norm(square - eye) for square in squares]).sum()",
           "adalora(init_r=4, target_r=2)", "the penalty is a sum"),
    Mutant("adalora", _ADALORA, "total_step=steps,", "total_step=steps + 1,", "adalora(init_r=4, target_r=2)", "the schedule ends after the training"),
    Mutant("adalora", _ADALORA, "        _peft.attach(training, config)\n",
           "        _peft.attach(training, config)\n        for name, parameter in training.model.named_parameters():\n            if 'modules_to_save' in name:\n                parameter.requires_grad_(False)\n",
           "adalora(init_r=4, target_r=2)", "the new head stays frozen"),
    # -- adapter
    Mutant("adapter", _BOTTLENECK, "hidden + self.up(self.activation(self.down(hidden)))", "self.up(self.activation(self.down(hidden)))", "adapter(8)", "the residual is missing"),
    Mutant("adapter", _BOTTLENECK, "hidden + self.up(self.activation(self.down(hidden)))", "hidden + self.up(self.down(hidden))", "adapter(8)", "the nonlinearity is missing"),
    Mutant("adapter", _BOTTLENECK, 'nn.GELU() if placement == "houlsby" else nn.ReLU()', "nn.GELU()", 'adapter(8, "pfeiffer")', "GELU for ReLU"),
    Mutant("adapter", _BOTTLENECK, 'nn.GELU() if placement == "houlsby" else nn.ReLU()', 'nn.GELU(approximate="tanh") if placement == "houlsby" else nn.ReLU()', "adapter(8)", "GELU by an approximation"),
    Mutant("adapter", _BOTTLENECK, 'nn.GELU() if placement == "houlsby" else nn.ReLU()', 'nn.SiLU() if placement == "houlsby" else nn.ReLU()', "adapter(8)", "SiLU for GELU"),
    Mutant("adapter", _BOTTLENECK, "        nn.init.zeros_(self.up.weight)\n", "", "adapter(8)", "they do not start as the identity"),
    Mutant("adapter", _BOTTLENECK, "        nn.init.zeros_(self.up.bias)\n", "        nn.init.constant_(self.up.bias, 0.1)\n", "adapter(8)", "biases do not start at zero"),
    Mutant("adapter", _BOTTLENECK, "out: torch.Tensor = self.adapter(self.base_layer(*args))", "out: torch.Tensor = self.adapter(self.base_layer(*args).detach())", "adapter(8)", "no gradient goes through to the blocks below"),
    Mutant("adapter", _BOTTLENECK, "out: torch.Tensor = self.adapter(self.base_layer(*args))", "out: torch.Tensor = self.base_layer(*args) + self.adapter(self.base_layer(*args))", "adapter(8)", "the layer counts twice"),
    Mutant("adapter", _BOTTLENECK, "behind += architecture.attention_outputs(model)", "behind += [part.value for part in architecture.attention(model)]", "adapter(8)", "behind attention's values for its output"),
    Mutant("adapter", _BOTTLENECK, "behind = architecture.feed_forward_outputs(model)\n", "behind = architecture.feed_forward_outputs(model)[:1] + architecture.attention_outputs(model)[1:]\n", 'adapter(8, "pfeiffer")', "one block has it behind attention"),
    Mutant("adapter", _ADAPTER, 'return bottleneck.norms(model) if self.placement == "houlsby" else {}', "return {}", "adapter(8)", "norms stay frozen"),
    Mutant("adapter", _ADAPTER, 'return bottleneck.norms(model) if self.placement == "houlsby" else {}', "return bottleneck.norms(model)", 'adapter(8, "pfeiffer")', "norms train with pfeiffer too"),
    Mutant("adapter", _ADAPTER, "(self._norms(training.model) | _added.new_weights(training.model)).values()", "self._norms(training.model).values()", "adapter(8)", "the new head stays frozen"),
    Mutant("adapter", _ADAPTER, "            module.requires_grad_(True)\n", "            module.requires_grad_(True)\n            module.down.requires_grad_(False)\n", "adapter(8)", "the way down stays frozen"),
    Mutant("adapter", _BOTTLENECK, 'inside = [module for module in architecture.body(model).modules() if "norm" in type(module).__name__.lower()]', 'inside = [module for module in architecture.blocks(model)[0].modules() if "norm" in type(module).__name__.lower()]', "adapter(8)", "norms of one block alone train"),
    # -- ia3
    Mutant("ia3", _IA3, '_peft.config(training, "IA3Config")', '_peft.config(training, "IA3Config", init_ia3_weights=False)', "ia3", "factors do not start at 1"),
    Mutant("ia3", _IA3, '_peft.config(training, "IA3Config")', '_peft.config(training, "IA3Config", target_modules=["key", "value"], feedforward_modules=[])', "ia3", "feed-forward layers are left out"),
    Mutant("ia3", _IA3, '_peft.config(training, "IA3Config")', '_peft.config(training, "IA3Config", target_modules=["key", "value", "output.dense"], feedforward_modules=[])', "ia3", "outputs of feed-forward layers are rescaled for their inputs"),
    Mutant("ia3", _IA3, '_peft.config(training, "IA3Config")', '_peft.config(training, "IA3Config", target_modules=["query", "value", "output.dense"], feedforward_modules=["output.dense"])', "ia3", "queries for keys"),
    Mutant("ia3", _IA3, '_peft.attach(training, _peft.config(training, "IA3Config"))', '_peft.attach(training, _peft.config(training, "IA3Config"))\n        [p.requires_grad_(False) for name, p in training.model.named_parameters() if "key" in name]', "ia3", "factors of keys stay frozen"),
    Mutant("ia3", _IA3, '_peft.attach(training, _peft.config(training, "IA3Config"))', '_peft.attach(training, _peft.config(training, "IA3Config"))\n        [p.requires_grad_(False) for name, p in training.model.named_parameters() if "modules_to_save" in name]', "ia3", "the new head stays frozen"),
    # -- prefix and prompt
    Mutant("prefix", _PREFIX, "num_virtual_tokens=self.n, ", "num_virtual_tokens=self.n + 1, ", "prefix(3)", "one token more"),
    Mutant("prefix", _PREFIX, "num_virtual_tokens=self.n, ", "num_virtual_tokens=self.n, prefix_projection=True, ", "prefix(3)", "through a network"),
    Mutant("prefix", _PREFIX, "**_peft.sizes(training))\n        )", '**_peft.sizes(training))\n        )\n        _peft.virtual_tokens(training.model).data.zero_()', "prefix(3)", "prefixes start at zero"),
    Mutant("prefix", _PREFIX, "**_peft.sizes(training))\n        )", '**_peft.sizes(training))\n        )\n        [p.requires_grad_(False) for name, p in training.model.named_parameters() if "classifier" in name]', "prefix(3)", "the new head stays frozen"),
    Mutant("prompt", _PROMPT, 'prompt_tuning_init="SAMPLE_VOCAB"', 'prompt_tuning_init="RANDOM"', "prompt(3)", "vectors are drawn, and no words'"),
    Mutant("prompt", _PROMPT, "num_virtual_tokens=self.n,", "num_virtual_tokens=self.n - 1,", "prompt(3)", "one token less"),
    Mutant("prompt", _PROMPT, "        _peft.attach(training, config)\n", "        _peft.attach(training, config)\n        table = _peft.virtual_tokens(training.model)\n        table.data[:] = table.data[0]\n", "prompt(3)", "all tokens start as one"),
    Mutant("prompt", _PROMPT, "        _peft.attach(training, config)\n", "        _peft.attach(training, config)\n        [p.requires_grad_(False) for name, p in training.model.named_parameters() if 'classifier' in name]\n", "prompt(3)", "the new head stays frozen"),
    Mutant("prompt", _PROMPT, "        _peft.attach(training, config)\n", "        _peft.attach(training, config)\n        table = _peft.virtual_tokens(training.model)\n        table.register_hook(lambda g: g * (g.new_tensor([1.0] + [0.0] * (len(g) - 1))[:, None]))\n", "prompt(3)", "the first token alone learns"),
    # -- peft
    Mutant("peft", _PEFT, "**{name: _thawed(value) for name, value in arguments})", "**{name: _thawed(value) for name, value in arguments if name != 'r'})", 'peft("VERA", r=4, lr=0.03)', "an argument is lost"),
    Mutant("peft", _PEFT, "_config(self.method, self.arguments, training.task.peft_task_type)", "_config(self.method, self.arguments, None)", 'peft("VERA", r=4, lr=0.03)', "PEFT does not hear of the head"),
    Mutant("peft", _PEFT, "_peft.attach(training, _config(self.method, self.arguments, training.task.peft_task_type))", "_peft.attach(training, _config(self.method, self.arguments, training.task.peft_task_type))\n        [p.requires_grad_(False) for name, p in training.model.named_parameters() if 'layer.0' in name]", 'peft("VERA", r=4, lr=0.03)', "one block's adapter stays frozen"),
    Mutant("peft", _PEFT, "_peft.attach(training, _config(self.method, self.arguments, training.task.peft_task_type))", "_peft.attach(training, _config('LOHA', (), training.task.peft_task_type))", 'peft("LOKR", r=4)', "LoHa for LoKr"),
]  # fmt: skip
