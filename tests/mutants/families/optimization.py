"""Mistakes in how a step is made: accumulation, precision, checkpoints, optimizers, rates, decay, clipping, compression."""

from tests.mutants.planting import Mutant

_ACCUMULATE = "methods/training/optimization/accumulate.py"
_CHECKPOINTING = "methods/training/optimization/gradient_checkpointing.py"
_CLIP = "methods/training/optimization/gradient_clip.py"
_DECAY = "methods/training/regularization/weight_decay.py"
_LOOP = "bench/stage/loop.py"
_OPTIMIZER = "methods/training/optimization/optimizer.py"
_PRECISION = "methods/training/optimization/mixed_precision.py"
_SCHEDULE = "methods/training/optimization/schedule.py"
_STOPPING = "methods/training/regularization/early_stopping.py"

_STOP = "full(lr=0.01) + early_stopping(patience=2, every=2)"
_LONG = {"budget": {"steps": 14}}
_DIVIDED = ("tests/methods/training/parallel/test_divided.py",)

MUTANTS = [
    # -- accumulate
    Mutant(
        "accumulate", _ACCUMULATE,
        "losses.append(compute(part, scale * fraction) * fraction)",
        "losses.append(compute(part, scale / self.k) * fraction)",
        "full + accumulate(3)", "micro-batches weigh alike",
    ),
    Mutant(
        "accumulate", _ACCUMULATE,
        "parts = batch.split(self.k)", "parts = batch.split(2)",
        "full + accumulate(3)", "two micro-batches whatever k is",
    ),
    Mutant(
        "accumulate", _ACCUMULATE,
        "losses.append(compute(part, scale * fraction) * fraction)",
        "losses.append(compute(part, scale * fraction))",
        "full + accumulate(2)", "the loss that is returned is a sum over micro-batches",
    ),
    Mutant(
        "accumulate", _ACCUMULATE,
        "losses.append(compute(part, scale * fraction) * fraction)",
        "losses.append(compute(part, scale) * fraction)",
        "full + accumulate(2)", "gradients of micro-batches are summed",
    ),
    Mutant(
        "accumulate", _ACCUMULATE,
        "for number, (part, fraction) in enumerate(zip(parts, share, strict=True), start=1):",
        "for number, (part, fraction) in enumerate(zip([parts[0]] * len(parts), share, strict=True), start=1):",
        "full + accumulate(2)", "the first micro-batch goes through again and again",
    ),
    Mutant(
        "accumulate", _ACCUMULATE,
        "training.more_to_come = number < len(parts)", "training.more_to_come = False",
        "full + data_parallel(2) + accumulate(2)", "replicas exchange after each micro-batch", tests=_DIVIDED,
    ),
    Mutant(
        "accumulate", _ACCUMULATE,
        "share = [part.weight / batch.weight for part in parts]",
        "share = [part.samples / batch.samples for part in parts]",
        "full + accumulate(2)", "micro-batches of language weigh by their texts",
        model="llama", keys={"task": "prose"},
    ),
    # -- mixed_precision
    Mutant(
        "mixed_precision", _PRECISION,
        "        def under_autocast(batch: Batch) -> torch.Tensor:\n            with torch.autocast(device, dtype):\n                return compute(batch)\n",
        "        context = torch.autocast(device, dtype)\n\n        def under_autocast(batch: Batch) -> torch.Tensor:\n            if not torch.is_autocast_enabled(device):\n                context.__enter__()\n            return compute(batch)\n",
        'full + mixed_precision("bf16")', "autocast never ends",
    ),
    Mutant(
        "mixed_precision", _PRECISION,
        'dtype = torch.bfloat16 if self.dtype == "bf16" else torch.float16\n        training.compute_dtype = dtype\n',
        'dtype = torch.bfloat16\n        training.compute_dtype = dtype\n',
        'full + mixed_precision("fp16")', "bf16 whatever was asked for",
    ),
    Mutant(
        "mixed_precision", _PRECISION,
        "scaler.step(step)\n", "update()\n",
        'full + mixed_precision("fp16")', "the optimizer steps with scaled gradients",
    ),
    Mutant(
        "mixed_precision", _PRECISION,
        "return compute(batch, scaler.scale(one) * scale)", "return compute(batch, scaler.scale(one))",
        'full + mixed_precision("fp16") + accumulate(2)', "the scale of a micro-batch is lost",
    ),
    Mutant(
        "mixed_precision", _PRECISION,
        "        import torch\n\n        dtype = torch.bfloat16 if self.dtype == \"bf16\" else torch.float16\n        training.compute_dtype = dtype\n        device",
        "        import torch\n\n        dtype = torch.bfloat16 if self.dtype == \"bf16\" else torch.float16\n        training.compute_dtype = dtype\n        training.model.to(dtype).float()\n        device",
        'full + mixed_precision("bf16")', "weights go through half precision once",
    ),
    Mutant(
        "mixed_precision", _PRECISION,
        "            with torch.autocast(device, dtype):\n                return compute(batch)\n",
        "            with torch.autocast(device, dtype):\n                return compute(batch).to(dtype).float()\n",
        'full + mixed_precision("bf16")', "the loss is rounded to half precision",
    ),
    # -- checkpointing
    Mutant(
        "gradient_checkpointing", _CHECKPOINTING,
        "        model.disable_input_require_grads()\n", "        model.enable_input_require_grads()\n",
        "top_layers(1) + gradient_checkpointing", "frozen blocks are drawn into the backward pass",
    ),
    Mutant(
        "gradient_checkpointing", _CHECKPOINTING,
        '        enable({"use_reentrant": False})\n',
        '        enable({"use_reentrant": False})\n        next(m for m in model.modules() if m.__class__.__name__ == "BertLayer").gradient_checkpointing = False\n',
        "full + gradient_checkpointing", "one block is left out",
    ),
    Mutant(
        "gradient_checkpointing", _CHECKPOINTING,
        'enable({"use_reentrant": False})', 'enable({"use_reentrant": False, "preserve_rng_state": False})',
        "full + gradient_checkpointing", "dropout is drawn anew in the backward pass",
    ),
    Mutant(
        "gradient_checkpointing", _CHECKPOINTING,
        "        disable()\n", "        model.train()\n",
        "full + gradient_checkpointing", "checkpoints stay on",
    ),
    # -- optimizer
    Mutant(
        "optimizer", _OPTIMIZER,
        'options["momentum"] = self._momentum', 'options["momentum"] = _MOMENTUM[self.optimizer]',
        'full(lr=0.05) + optimizer("sgd", momentum=0.5)', "the momentum that was given is not taken",
    ),
    Mutant(
        "optimizer", _OPTIMIZER,
        '_MOMENTUM = {"sgd": 0.9,', '_MOMENTUM = {"sgd": 0.99,',
        'full(lr=0.05) + optimizer("sgd")', "another default momentum of SGD",
    ),
    Mutant(
        "optimizer", _OPTIMIZER,
        'options["momentum"] = self._momentum\n',
        'options |= {"momentum": self._momentum, "nesterov": self.optimizer == "sgd"}\n',
        'full(lr=0.05) + optimizer("sgd")', "Nesterov's momentum",
    ),
    Mutant(
        "optimizer", _OPTIMIZER,
        'options["momentum"] = self._momentum\n',
        'options |= {"momentum": self._momentum, "dampening": 0.5 * (self.optimizer == "sgd")}\n',
        'full(lr=0.05) + optimizer("sgd")', "dampened momentum",
    ),
    Mutant(
        "optimizer", _OPTIMIZER,
        'if self.optimizer in ("sgd", "adam", "adamw"):\n            options["fused"] = True\n',
        'if self.optimizer in ("sgd", "adam", "adamw"):\n            options["fused"] = True\n        if self.optimizer in ("adam", "adamw"):\n            options["betas"] = (0.9, 0.99)\n',
        'full + optimizer("adamw")', "another second beta",
    ),
    Mutant(
        "optimizer", _OPTIMIZER,
        'if self.optimizer in ("sgd", "adam", "adamw"):\n            options["fused"] = True\n',
        'if self.optimizer in ("sgd", "adam", "adamw"):\n            options["fused"] = True\n        if self.optimizer == "adam":\n            options["amsgrad"] = True\n',
        'full + optimizer("adam")', "AMSGrad for Adam",
    ),
    Mutant(
        "optimizer", _OPTIMIZER,
        '"adam": torch.optim.Adam,', '"adam": torch.optim.AdamW,',
        'full + optimizer("adam") + weight_decay(0.1)', "AdamW for Adam",
    ),
    Mutant(
        "optimizer", _OPTIMIZER,
        '"adamw": torch.optim.AdamW}', '"adamw": torch.optim.Adam}',
        'full + optimizer("adamw") + weight_decay(0.1)', "Adam for AdamW",
    ),
    Mutant(
        "optimizer", _OPTIMIZER,
        'options["lr"] = self.lr\n', 'options["lr"] = training.trainer.lr\n',
        'full + optimizer("adam", lr=0.001)', "the rate that was given is not taken",
    ),
    Mutant(
        "optimizer", _OPTIMIZER,
        '            options["fused"] = True\n', '            options |= {"fused": True, "maximize": self.optimizer == "sgd"}\n',
        'full(lr=0.0001) + optimizer("sgd")', "it climbs",
    ),
    Mutant(
        "optimizer", _OPTIMIZER,
        'adjust_lr_fn="match_rms_adamw", **options', 'adjust_lr_fn="original", **options',
        'full + optimizer("muon")', "Muon's steps are of another length",
    ),
    Mutant(
        "optimizer", _OPTIMIZER,
        'adjust_lr_fn="match_rms_adamw", **options', 'adjust_lr_fn="match_rms_adamw", nesterov=False, **options',
        'full + optimizer("muon")', "Muon without Nesterov's momentum",
    ),
    Mutant(
        "optimizer", _OPTIMIZER,
        "momentum=self._momentum, adjust_lr_fn", "adjust_lr_fn",
        'full + optimizer("muon", momentum=0.8)', "Muon does not take the momentum",
    ),
    Mutant(
        "optimizer", _OPTIMIZER,
        "return {p for block in held for p in block.parameters() if p.dim() == 2 and p.requires_grad}",
        "return {p for block in held for p in block.parameters() if p.dim() == 2 and p.requires_grad and p.shape[0] == p.shape[1]}",
        'full + optimizer("muon")', "Muon has the square matrices alone",
    ),
    Mutant(
        "optimizer", _OPTIMIZER,
        "            for part in self.parts:\n                part.step()\n", "            self.parts[0].step()\n",
        'full + optimizer("muon")', "Muon steps, and AdamW beside it does not",
    ),
    Mutant(
        "optimizer", _OPTIMIZER,
        '"lion": "Lion",', '"lion": "Adam",',
        'full(lr=5e-5) + optimizer("lion")', "Adam for Lion",
    ),
    Mutant(
        "optimizer", _OPTIMIZER,
        "made: torch.optim.Optimizer = _class(self.optimizer)(training.groups, **options)",
        'extra = {"betas": (0.95, 0.98)} if self.optimizer == "lion" else {}\n        made: torch.optim.Optimizer = _class(self.optimizer)(training.groups, **options, **extra)',
        'full(lr=5e-5) + optimizer("lion")', "Lion's betas are others",
    ),
    Mutant(
        "optimizer", _OPTIMIZER,
        'options["min_8bit_size"] = self.min_8bit_size\n', 'options["min_8bit_size"] = 4096\n',
        'full + optimizer("adamw_8bit", min_8bit_size=512)', "the least size is the library's",
    ),
    Mutant(
        "optimizer", _OPTIMIZER,
        "made: torch.optim.Optimizer = _class(self.optimizer)(training.groups, **options)",
        "made: torch.optim.Optimizer = _class(self.optimizer)([training.groups[0]], **options)",
        'full(lr=0.05) + optimizer("sgd") + weight_decay(0.1)', "only the first group trains",
    ),
    # -- the default optimizer
    Mutant(
        "full", _LOOP,
        "return torch.optim.AdamW(self.groups, fused=True, **self.optimizer_options)",
        "return torch.optim.Adam(self.groups, fused=True, **self.optimizer_options)",
        "full", "Adam for the default optimizer",
    ),
    Mutant(
        "full", _LOOP,
        "return torch.optim.AdamW(self.groups, fused=True, **self.optimizer_options)",
        "return torch.optim.AdamW(self.groups, fused=True, betas=(0.9, 0.95), **self.optimizer_options)",
        "full", "another second beta of the default optimizer",
    ),
    Mutant(
        "full", _LOOP,
        'self.optimizer_options: dict[str, Any] = {"lr": trainer.lr}',
        'self.optimizer_options: dict[str, Any] = {"lr": type(trainer).lr}',
        "full(lr=0.001)", "the trainer's rate is its default",
    ),
    # -- schedule
    Mutant(
        "schedule", _SCHEDULE,
        'group["lr"] = group["initial_lr"] * shares[training.step + 1]', 'group["lr"] = group["initial_lr"] * shares[training.step]',
        'full + schedule("linear", warmup=0.1)', "the rate is a step late",
    ),
    Mutant(
        "schedule", _SCHEDULE,
        'group["lr"] = group["initial_lr"] * shares[training.step + 1]', 'group["lr"] *= shares[training.step + 1]',
        'full + schedule("linear", warmup=0.4)', "shares multiply up",
    ),
    Mutant(
        "schedule", _SCHEDULE,
        "num_training_steps=training.steps)", "num_training_steps=training.budget.steps)",
        'full(share=0.5) + schedule("linear")', "the schedule is of the budget's length",
    ),
    Mutant(
        "schedule", _SCHEDULE,
        "        return math.ceil(self.warmup * steps)", "        return math.ceil(self.warmup * steps / 2)",
        'full + schedule("cosine", warmup=0.5)', "half of the warm-up",
    ),
    Mutant(
        "schedule", _SCHEDULE,
        'name = "constant_with_warmup" if self.schedule == "constant" else self.schedule',
        'name = "constant_with_warmup" if self.schedule == "constant" else "linear"',
        'full + schedule("cosine", warmup=0.1)', "a line for a cosine",
    ),
    Mutant(
        "schedule", _SCHEDULE,
        '            group["lr"] *= shares[0]\n', "",
        'full + schedule("linear", warmup=0.4)', "the first step is at the full rate",
    ),
    Mutant(
        "schedule", _SCHEDULE,
        "for group in training.optimizer.param_groups if shares else ():", "for group in training.optimizer.param_groups[:1] if shares else ():",
        'full + weight_decay(0.1) + schedule("linear")', "only the first group has the schedule",
    ),
    Mutant(
        "schedule", _SCHEDULE,
        'group["initial_lr"] = group["lr"]\n', 'group["initial_lr"] = group["lr"] = 1e-3\n',
        'full + schedule("linear")', "the full rate is another",
    ),
    # -- weight_decay
    Mutant(
        "weight_decay", _LOOP,
        "return torch.optim.AdamW(self.groups, fused=True, **self.optimizer_options)",
        "return torch.optim.Adam(self.groups, fused=True, **self.optimizer_options)",
        "full + weight_decay(0.1)", "decay is coupled with the gradient",
    ),
    Mutant(
        "weight_decay", _DECAY,
        '"params": vectors, "weight_decay": 0.0}', '"params": vectors}',
        "full + weight_decay(0.1)", "vectors decay too",
    ),
    Mutant(
        "weight_decay", _DECAY,
        'matrices = [parameter for parameter in group["params"] if parameter.dim() >= 2]\n            vectors = [parameter for parameter in group["params"] if parameter.dim() < 2]',
        'matrices = [parameter for parameter in group["params"] if parameter.shape[0] == parameter.shape[-1]]\n            vectors = [parameter for parameter in group["params"] if parameter.shape[0] != parameter.shape[-1]]',
        "full + weight_decay(0.1)", "square matrices and vectors decay",
    ),
    Mutant(
        "weight_decay", _DECAY,
        'training.optimizer_options["weight_decay"] = self.weight_decay', 'training.optimizer_options["weight_decay"] = self.weight_decay * training.trainer.lr',
        "full + weight_decay(0.1)", "decay is times the rate twice",
    ),
    Mutant(
        "weight_decay", _DECAY,
        "        training.groups = parted\n",
        "        training.groups = parted\n        decays = next(iter(parted), {'params': []})['params']\n        for parameter in decays:\n            parameter.register_post_accumulate_grad_hook(lambda p: (p.grad.add_(p.detach(), alpha=self.weight_decay), None)[1])\n        training.optimizer_options['weight_decay'] = 0.0\n",
        "full + weight_decay(0.1)", "decay is in the gradient",
    ),
    # -- gradient_clip
    Mutant(
        "gradient_clip", _CLIP,
        "            clip_grad_norm_(parameters, max_norm)\n            update()\n",
        "            for parameter in parameters:\n                clip_grad_norm_([parameter], max_norm)\n            update()\n",
        "full + gradient_clip(0.1)", "each tensor is clipped alone",
    ),
    Mutant(
        "gradient_clip", _CLIP,
        "            clip_grad_norm_(parameters, max_norm)\n            update()\n",
        "            clip_grad_norm_(parameters, max_norm, norm_type=float('inf'))\n            update()\n",
        "full + gradient_clip(0.1)", "the largest element is clipped",
    ),
    Mutant(
        "gradient_clip", _CLIP,
        "            clip_grad_norm_(parameters, max_norm)\n            update()\n",
        "            norm = clip_grad_norm_(parameters, float('inf'))\n            for parameter in parameters:\n                if parameter.grad is not None and norm > 0:\n                    parameter.grad.mul_(max_norm / norm)\n            update()\n",
        "full + gradient_clip(100.0)", "short gradients are lengthened",
    ),
    Mutant(
        "gradient_clip", _CLIP,
        "            clip_grad_norm_(parameters, max_norm)\n            update()\n",
        "            clip_grad_norm_(parameters[:-1], max_norm)\n            update()\n",
        "full + gradient_clip(0.1)", "one tensor is left out",
    ),
    Mutant(
        "gradient_clip", _CLIP,
        "            clip_grad_norm_(parameters, max_norm)\n            update()\n",
        "            update()\n            clip_grad_norm_([p for p in parameters if p.grad is not None], max_norm)\n",
        "full + gradient_clip(0.1)", "it clips after the update",
    ),
    Mutant(
        "gradient_clip", _CLIP,
        "            clip_grad_norm_(parameters, max_norm)\n            update()\n",
        "            norm = float(clip_grad_norm_(parameters, max_norm))\n            if norm > max_norm:\n                for parameter in parameters:\n                    parameter.grad.copy_(parameter.grad.sign() * max_norm / sum(p.numel() for p in parameters) ** 0.5)\n            update()\n",
        "full + gradient_clip(0.1)", "signs of the right norm",
    ),
    Mutant(
        "gradient_clip", _CLIP,
        "dist.all_reduce(parts, group=training.group.processes(axis))", "pass",
        "full + gradient_clip(0.1) + tensor_parallel(2)", "the others' parts are not in the norm", tests=_DIVIDED,
    ),
    Mutant(
        "gradient_clip", _CLIP,
        'part = "layers" in training.group.layout or is_part(parameter)', "part = True",
        "full + gradient_clip(0.1) + tensor_parallel(2)", "what all hold is in the norm twice", tests=_DIVIDED,
    ),
    # -- early_stopping
    Mutant(
        "early_stopping", _STOPPING,
        "return len(values) > self.patience and min(values[-self.patience :]) >= min(values[: -self.patience])",
        "return len(values) > self.patience + 1 and min(values[-self.patience - 1 :]) >= min(values[: -self.patience - 1])",
        _STOP, "it waits for one evaluation more", keys=_LONG,
    ),
    Mutant(
        "early_stopping", _STOPPING,
        "return len(values) > self.patience and min(values[-self.patience :]) >= min(values[: -self.patience])",
        "return len(values) > 1 and values[-1] >= values[-2]",
        _STOP, "the first evaluation that is worse ends it", keys=_LONG,
    ),
    Mutant(
        "early_stopping", _STOPPING,
        "if not seen.losses or loss < min(loss for _, loss in seen.losses):", "if True:",
        _STOP, "the last weights are kept", keys=_LONG,
    ),
    Mutant(
        "early_stopping", _STOPPING,
        "seen.best = [parameter.detach().clone() for parameter in training.parameters]",
        "seen.best = [parameter.detach() for parameter in training.parameters]",
        _STOP, "the best weights are no copy", keys=_LONG,
    ),
    Mutant(
        "early_stopping", _STOPPING,
        'for batch in training.batches("validation", shuffle=False):', 'for batch in training.batches("test", shuffle=False):',
        _STOP, "it looks at the test split", keys=_LONG,
    ),
    Mutant(
        "early_stopping", _STOPPING,
        'for batch in training.batches("validation", shuffle=False):', 'for batch in [next(training.batches("validation", shuffle=False))]:',
        _STOP, "it looks at the first batch alone", keys=_LONG,
    ),
    Mutant(
        "early_stopping", _STOPPING,
        "with evaluating(training.model), torch.no_grad(),", "with torch.no_grad(),",
        _STOP, "it evaluates with dropout", keys=_LONG,
    ),
    Mutant(
        "early_stopping", _STOPPING,
        "            losses.append(float(training.task.criterion(training.outputs(batch), batch)) * batch.weight)\n            weights.append(batch.weight)\n",
        "            losses.append(float(training.task.criterion(training.outputs(batch), batch)))\n            weights.append(1)\n",
        "full(lr=0.01) + early_stopping(patience=2, every=2)", "batches weigh alike", keys={"budget": {"steps": 14, "batch_size": 5}},
    ),
    Mutant(
        "early_stopping", _STOPPING,
        "if done % self.every == 0 or over:", "if training.step % self.every == 0 or over:",
        _STOP, "it evaluates a step later", keys=_LONG,
    ),
    Mutant(
        "early_stopping", _STOPPING,
        "        if training.stop or over:\n            with torch.no_grad():", "        if training.stop:\n            with torch.no_grad():",
        "full(lr=0.1) + early_stopping(patience=20, every=2)", "a training that ends by itself does not go back", keys=_LONG,
    ),
    Mutant(
        "early_stopping", _STOPPING,
        "or loss < min(loss for _, loss in seen.losses):", "or loss < seen.losses[-1][1]:",
        "full(lr=0.1) + early_stopping(patience=20, every=1)", "better than the one before is the best", keys=_LONG,
    ),
]  # fmt: skip
