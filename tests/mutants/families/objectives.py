"""Mistakes in what is learned from: losses of a teacher, of pairs, of gaps."""

from tests.mutants.planting import Mutant

_ADVERSARIAL = "methods/training/objectives/adversarial.py"
_CONTRASTIVE = "methods/training/objectives/contrastive.py"
_DISTILL = "methods/training/objectives/distill.py"
_MATCHING = "methods/training/objectives/_shared/distillation.py"
_PRETRAIN = "methods/training/objectives/pretrain.py"
_SELF_SUPERVISED = "methods/training/objectives/_shared/self_supervised.py"
_RDROP = "methods/training/objectives/rdrop.py"
_SMOOTHING = "methods/training/objectives/label_smoothing.py"

_ONE = "full >> distill(layers=1)"
_HIDDEN = 'full >> distill(layers=1, match="hidden")'
_MAPS = 'full >> distill(layers=1, match="attention")'
_FGM, _PGD, _LB = (
    'full + adversarial("fgm")',
    'full + adversarial("pgd", steps=3)',
    'full + adversarial("freelb", steps=3)',
)

MUTANTS = [
    # -- distill
    Mutant("distill", _MATCHING, "return temperature**2 * nn.functional", "return nn.functional", _ONE, "the loss is not times the square of the temperature"),
    Mutant("distill", _MATCHING, "kl_div(ours, theirs, reduction", "kl_div(theirs, ours, reduction", _ONE, "the divergence is the other way round"),
    Mutant("distill", _MATCHING, 'kl_div(ours, theirs, reduction="batchmean"', 'kl_div(ours, theirs, reduction="mean"', _ONE, "the divergence is a mean over classes too"),
    Mutant("distill", _MATCHING, 'kl_div(ours, theirs, reduction="batchmean"', 'kl_div(ours, theirs, reduction="sum"', _ONE, "the divergence is a sum over items"),
    Mutant("distill", _MATCHING, "((logits.float() / temperature).log_softmax(-1) for logits in (student, teacher))", "((logits.float() / t).log_softmax(-1) for logits, t in ((student, 1.0), (teacher, temperature)))", _ONE, "the student has no temperature"),
    Mutant("distill", _DISTILL, "teacher, self.temperature)", "teacher, 1.0)", 'full >> distill(layers=1, temperature=4.0)', "the temperature is ignored"),
    Mutant("distill", _DISTILL, "loss = self.alpha * distillation", "loss = distillation", _ONE, "alpha does not weigh the teacher"),
    Mutant("distill", _DISTILL, "(1 - self.alpha) * criterion(outputs, batch)", "criterion(outputs, batch)", _ONE, "the task's loss has its full weight"),
    Mutant("distill", _DISTILL, "            if self.alpha < 1:\n                loss", "            if self.alpha < 0.5:\n                loss", _ONE, "the task's loss is left out"),
    Mutant("distill", _DISTILL, "loss = self.alpha * distillation.soft_loss(student, teacher, self.temperature)", "loss = self.alpha * (student.float() - teacher.float()).square().mean()", _ONE, "squares of logits' differences for the divergence"),
    Mutant("distill", _DISTILL, "loss = self.alpha * distillation.soft_loss(student, teacher, self.temperature)", "loss = self.alpha * distillation.soft_loss(student.detach(), teacher, self.temperature)", _ONE, "no gradient from the teacher's answers"),
    Mutant("distill", _DISTILL, "teacher = training.model.eval()", "teacher = training.model.train()", _ONE, "the teacher drops out"),
    Mutant("distill", _MATCHING, "[round(number * (count - 1) / max(1, kept - 1)) for number in range(kept)]", "list(range(count - kept, count))", _ONE, "the student starts from the last blocks"),
    Mutant("distill", _DISTILL, "student = copy.deepcopy(teacher)\n", "student = copy.deepcopy(teacher)\n            student.apply(lambda m: m.reset_parameters() if isinstance(m, __import__('torch').nn.Embedding) else None)\n", _ONE, "the student's embeddings are drawn anew"),
    Mutant("distill", _DISTILL, "student = copy.deepcopy(teacher)\n", "student = copy.deepcopy(teacher)\n            student.classifier.reset_parameters()\n", _ONE, "the student's head is drawn anew"),
    Mutant("distill", _DISTILL, "student.requires_grad_(True)\n", "student.requires_grad_(True)\n        student.get_input_embeddings().requires_grad_(False)\n", _ONE, "the student's embeddings stay frozen"),
    Mutant("distill", _DISTILL, "student.requires_grad_(True)\n", "[p.requires_grad_(p.dim() > 1) for p in student.parameters()]\n", _ONE, "the student's vectors stay frozen"),
    Mutant("distill", _DISTILL, "return loss + teaching.match.loss(batch) if teaching.match else loss", "return loss + 0.1 * teaching.match.loss(batch) if teaching.match else loss", _HIDDEN, "a tenth of the loss between hidden states"),
    Mutant("distill", _MATCHING, "return torch.stack(losses).mean()", "return torch.stack(losses).mean().detach()", _HIDDEN, "no gradient from hidden states"),
    Mutant("distill", _MATCHING, "return torch.stack(losses).mean()", "return torch.stack(losses).sum()", 'full >> distill(layers=2, match="hidden")', "the loss between hidden states is a sum over blocks"),
    Mutant("distill", _MATCHING, "return [round((number + 1) * teachers / count) - 1 for number in range(count)]", "return [round(number * teachers / count) for number in range(count)]", _HIDDEN, "hidden states are matched a block early"),
    Mutant("distill", _MATCHING, "    means = (values * real).sum(1) / real.sum(1)\n", "    means = values.mean(1)\n", _HIDDEN, "padding is compared too"),
    Mutant("distill", _MATCHING, "difference.square().mean(-1)", "difference.abs().mean(-1)", _HIDDEN, "magnitudes for squares of hidden states' differences"),
    Mutant("distill", _MATCHING, "difference = project(ours).float()", "difference = ours.float()", _HIDDEN, "hidden states are not projected"),
    Mutant("distill", _MATCHING, "(theirs.exp() * (theirs - ours)).sum(-1).mean(1)", "(ours.exp() * (ours - theirs)).sum(-1).mean(1)", _MAPS, "the maps' divergence is the other way round"),
    Mutant("distill", _MATCHING, "(theirs.exp() * (theirs - ours)).sum(-1).mean(1)", "(theirs.exp() * (theirs - ours)).sum(-1).sum(1)", _MAPS, "the maps' divergence is a sum over heads"),
    Mutant("distill", _MATCHING, "ours, theirs = attention(student)[-1], attention(teacher)[-1]", "ours, theirs = attention(student)[-1], attention(teacher)[0]", _MAPS, "the first block's maps are matched"),
    Mutant("distill", _MATCHING, "(query.shape[-1] ** -0.5 if scaling is None else scaling)", "1.0", _MAPS, "attention is not scaled"),
    # -- label_smoothing
    Mutant("label_smoothing", _SMOOTHING, "(1 - smoothing) * criterion(outputs, batch) + smoothing * uniform", "criterion(outputs, batch) + smoothing * uniform", "full + label_smoothing(0.1)", "the labels keep their full weight"),
    Mutant("label_smoothing", _SMOOTHING, "log_softmax(-1).mean()", "log_softmax(-1).sum(-1).mean()", "full + label_smoothing(0.1)", "a sum over classes"),
    Mutant("label_smoothing", _SMOOTHING, "log_softmax(-1).mean()", "log_softmax(-1).mean().detach()", "full + label_smoothing(0.1)", "no gradient from the other classes"),
    Mutant("label_smoothing", _SMOOTHING, "smoothing, task = self.smoothing, training.task", "smoothing, task = 0.1, training.task", "full + label_smoothing(0.3)", "the share is always a tenth"),
    Mutant("label_smoothing", _SMOOTHING, "uniform = -task.logits(outputs, batch).float().log_softmax(-1).mean()", "logs = task.logits(outputs, batch).float().log_softmax(-1)\n            uniform = (logs.exp() * logs).sum(-1).mean()", "full + label_smoothing(0.1)", "a penalty of confidence for label smoothing"),
    Mutant("label_smoothing", _SMOOTHING, "uniform = -task.logits(outputs, batch).float().log_softmax(-1).mean()", "logs = -task.logits(outputs, batch).float().log_softmax(-1)\n            uniform = (logs.sum(-1) + logs.min(-1).values * 0 - logs.gather(-1, logs.argmin(-1, keepdim=True))[:, 0]).mean() / (logs.shape[-1] - 1)", "full + label_smoothing(0.1)", "the likeliest class has no share"),
    Mutant("label_smoothing", _SMOOTHING, "uniform = -task.logits(outputs, batch).float().log_softmax(-1).mean()", "uniform = -task.logits(outputs, batch)[:1].float().log_softmax(-1).mean()", "full + label_smoothing(0.1)", "the first item alone is smoothed"),
    # -- rdrop
    Mutant("rdrop", _RDROP, "self.alpha * divergence(first, second)", "self.alpha * divergence(first, second).detach()", "full + rdrop(0.5)", "the divergence is detached"),
    Mutant("rdrop", _RDROP, "self.alpha * divergence(first, second)", "self.alpha * divergence(first.detach(), second)", "full + rdrop(0.5)", "the first pass is detached in the divergence"),
    Mutant("rdrop", _RDROP, "self.alpha * divergence(first, second)", "divergence(first, second)", "full + rdrop(0.5)", "alpha is ignored"),
    Mutant("rdrop", _RDROP, "(compute(batch) + compute(batch)) / 2", "compute(batch) + compute(batch)", "full + rdrop(0.5)", "the two losses are added up"),
    Mutant("rdrop", _RDROP, "loss = (compute(batch) + compute(batch)) / 2", "loss = compute(batch) + 0 * compute(batch)", "full + rdrop(0.5)", "the second pass' loss is left out"),
    Mutant("rdrop", _RDROP, '        kl(log_q, log_p, log_target=True, reduction="batchmean")\n        + kl(log_p, log_q, log_target=True, reduction="batchmean")\n', '        2 * kl(log_q, log_p, log_target=True, reduction="batchmean")\n', "full + rdrop(0.5)", "one direction twice"),
    Mutant("rdrop", _RDROP, '        + kl(log_p, log_q, log_target=True, reduction="batchmean")\n    ) / 2', '        + kl(log_p, log_q, log_target=True, reduction="batchmean")\n    )', "full + rdrop(0.5)", "the sum of both directions"),
    Mutant("rdrop", _RDROP, "first.float().log_softmax(-1), second.float().log_softmax(-1)", "first.float().log_softmax(-1), second.float().log_softmax(-1).flip(0)", "full + rdrop(0.5)", "items are compared with others"),
    # -- contrastive
    Mutant("contrastive", _CONTRASTIVE, "return -(logs.sum(-1) / positive.sum(-1).clamp(min=1)).mean()", "return -(logs.sum(-1) / positive.sum(-1).clamp(min=1)).sum()", 'full + contrastive("supcon")', "a sum over anchors"),
    Mutant("contrastive", _CONTRASTIVE, "return -(logs.sum(-1) / positive.sum(-1).clamp(min=1)).mean()", "return -logs.sum(-1).mean()", 'full + contrastive("supcon")', "a sum over positives"),
    Mutant("contrastive", _CONTRASTIVE, "return -(logs.sum(-1) / positive.sum(-1).clamp(min=1)).mean()", "return -(logs.sum(-1) / positive.sum(-1).clamp(min=1)).mean().detach()", 'full + contrastive("supcon")', "no gradient of supcon"),
    Mutant("contrastive", _CONTRASTIVE, "positive = (labels[:, None] == labels[None]) & ~itself", "positive = labels[:, None] == labels[None]", 'full + contrastive("supcon")', "an item is its own positive"),
    Mutant("contrastive", _CONTRASTIVE, "logits = (units @ units.T / temperature).masked_fill(itself, -torch.inf)", "logits = units @ units.T / temperature", 'full + contrastive("supcon")', "an item is among those that it is compared with"),
    Mutant("contrastive", _CONTRASTIVE, "logits = (units @ units.T / temperature).masked_fill(itself, -torch.inf)", "logits = (units @ units.T.detach() / temperature).masked_fill(itself, -torch.inf)", 'full + contrastive("supcon")', "gradients go to anchors alone"),
    Mutant("contrastive", _CONTRASTIVE, "supcon(first, batch.labels, self._temperature)", "supcon(first, batch.labels, 0.5)", 'full + contrastive("supcon")', "another temperature of supcon"),
    Mutant("contrastive", _CONTRASTIVE, '{"supcon": 0.1, "simcse": 0.05}', '{"supcon": 0.07, "simcse": 0.05}', 'full + contrastive("supcon")', "another default temperature"),
    Mutant("contrastive", _CONTRASTIVE, "    return torch.nn.functional.normalize(summed, dim=-1)", "    return summed / real.sum(1)", 'full + contrastive("supcon")', "products for cosines"),
    Mutant("contrastive", _CONTRASTIVE, "summed = (states[:, -real.shape[1] :].float() * real).sum(1)", "summed = states[:, -real.shape[1] :].float().sum(1)", 'full + contrastive("supcon")', "padding is in the mean"),
    Mutant("contrastive", _CONTRASTIVE, "summed = (states[:, -real.shape[1] :].float() * real).sum(1)", "summed = states[:, 0].float()", 'full + contrastive("simcse")', "the first token for the mean"),
    Mutant("contrastive", _CONTRASTIVE, "simcse(first, second, self._temperature)", "simcse(first, first, self._temperature)", 'full + contrastive("simcse")', "one view twice"),
    Mutant("contrastive", _CONTRASTIVE, "simcse(first, second, self._temperature)", "simcse(first, second.detach(), self._temperature)", 'full + contrastive("simcse")', "the second view is detached"),
    Mutant("contrastive", _CONTRASTIVE, "                    training.model(**batch.inputs)\n                    second", "                    with torch.no_grad():\n                        training.model(**batch.inputs)\n                    second", 'full + contrastive("simcse")', "the second pass has no gradient"),
    Mutant("contrastive", _CONTRASTIVE, "first @ second.T / temperature, own)", "second @ first.T / temperature, own)", 'full + contrastive("simcse")', "views change places"),
    Mutant("contrastive", _CONTRASTIVE, "return loss + self.weight * simcse", "return loss + simcse", 'full + contrastive("simcse")', "simcse has its full weight"),
    Mutant("contrastive", _CONTRASTIVE, "return loss + self.weight * simcse", "return self.weight * simcse", 'full + contrastive("simcse")', "the task's loss is left out"),
    # -- adversarial
    Mutant("adversarial", _ADVERSARIAL, "return clean + differentiate(1)", "return clean + differentiate(0.5)", _FGM, "the perturbed loss counts by half"),
    Mutant("adversarial", _ADVERSARIAL, "        clean = differentiate(1)\n        delta.ascend", "        clean = differentiate(1)\n        training.optimizer.zero_grad()\n        delta.ascend", _FGM, "the clean gradient is lost"),
    Mutant("adversarial", _ADVERSARIAL, "return clean + differentiate(1)", "return (clean + differentiate(1)) / 2", _FGM, "the returned loss is a mean"),
    Mutant("adversarial", _ADVERSARIAL, "torch.linalg.vector_norm(tensor, dim=(1, 2), keepdim=True", "torch.linalg.vector_norm(tensor, dim=(0, 1, 2), keepdim=True", _FGM, "the norm is over the whole batch"),
    Mutant("adversarial", _ADVERSARIAL, "torch.linalg.vector_norm(tensor, dim=(1, 2), keepdim=True", "torch.linalg.vector_norm(tensor, dim=2, keepdim=True", _FGM, "the norm is each token's"),
    Mutant("adversarial", _ADVERSARIAL, "moved = self.delta.detach() + alpha *", "moved = self.delta.detach() - alpha *", _FGM, "the step goes down the gradient"),
    Mutant("adversarial", _ADVERSARIAL, "(gradient / _norm(gradient)).nan_to_num", "gradient.sign().div(_norm(gradient.sign())).nan_to_num", _FGM, "signs for the gradient"),
    Mutant("adversarial", _ADVERSARIAL, "gradient = self.delta.grad * self.real\n", "gradient = self.delta.grad\n", _FGM, "padding is perturbed"),
    Mutant("adversarial", _ADVERSARIAL, "with _frozen(training.parameters):  # on", "with contextlib.nullcontext():  # on", _PGD, "gradients on the way are kept"),
    Mutant("adversarial", _ADVERSARIAL, "                delta.ascend(self._alpha, self._epsilon, last=step == self._steps - 1)\n        return differentiate(1)", "                delta.ascend(self._alpha, 10.0, last=step == self._steps - 1)\n        return differentiate(1)", 'full + adversarial("pgd", steps=3, alpha=0.5)', "nothing is projected back"),
    Mutant("adversarial", _ADVERSARIAL, "            for step in range(self._steps):\n", "            for step in range(1, self._steps):\n", _PGD, "a step less"),
    Mutant("adversarial", _ADVERSARIAL, "moved = self.delta.detach() + alpha * (gradient / _norm(gradient)).nan_to_num(0, 0, 0)", "self.first = getattr(self, 'first', gradient)\n        moved = self.delta.detach() + alpha * (self.first / _norm(self.first)).nan_to_num(0, 0, 0)", _PGD, "each step goes along the first gradient"),
    Mutant("adversarial", _ADVERSARIAL, 'reach = self._epsilon if layer.training and self.attack != "fgm" else 0.0', "reach = 0.0", _PGD, "no random start"),
    Mutant("adversarial", _ADVERSARIAL, "self.delta.uniform_(-1, 1)", "self.delta.uniform_(0, 1)", _LB, "the random start has one sign"),
    Mutant("adversarial", _ADVERSARIAL, "            random.set_state(begin)\n", "", _LB, "dropout is drawn anew in each pass"),
    Mutant("adversarial", _ADVERSARIAL, "            loss = loss + differentiate(1 / self._steps)\n", "            loss = loss + differentiate(1)\n", _LB, "gradients of later points have their full weight"),
    Mutant("adversarial", _ADVERSARIAL, "        loss = differentiate(1 / self._steps)\n", "        loss = differentiate(0)\n", _LB, "the first point has no weight"),
    Mutant("adversarial", _ADVERSARIAL, "return loss / self._steps", "return loss", _LB, "the returned loss is a sum"),
    Mutant("adversarial", _ADVERSARIAL, "else self.alpha or 0.1", "else 0.1", 'full + adversarial("freelb", steps=3, alpha=0.2)', "alpha is ignored"),
    # -- pretrain
    Mutant("pretrain", _SELF_SUPERVISED, "return min(tokens, max(1, round(0.15 * tokens)))", "return min(tokens, max(1, round(0.3 * tokens)))", 'pretrain("mlm")', "30 % of the tokens are predicted"),
    Mutant("pretrain", _SELF_SUPERVISED, "chosen & (fate < 0.8), tokenizer.mask_token_id", "chosen, tokenizer.mask_token_id", 'pretrain("mlm")', "none stays"),
    Mutant("pretrain", _SELF_SUPERVISED, "        gaps = torch.where(chosen & (fate >= 0.9), random, gaps)\n", "", 'pretrain("mlm")', "20 % stay and none is random"),
    Mutant("pretrain", _SELF_SUPERVISED, "random = torch.randint(len(tokenizer), ids.shape, generator=draw)", "random = torch.randint(8, ids.shape, generator=draw)", 'pretrain("mlm")', "random tokens are of the first eight"),
    Mutant("pretrain", _SELF_SUPERVISED, "labels=ids.masked_fill(~chosen, IGNORED),", "labels=ids.masked_fill(~ordinary, IGNORED),", 'pretrain("mlm")', "all tokens are predicted"),
    Mutant("pretrain", _SELF_SUPERVISED, "labels=ids.masked_fill(~chosen, IGNORED),", "labels=gaps.masked_fill(~chosen, IGNORED),", 'pretrain("mlm")', "gaps are to be predicted as they are"),
    Mutant("pretrain", _SELF_SUPERVISED, "order = torch.rand(ids.shape, generator=draw)", "order = torch.rand(ids.shape, generator=generator_of(0))", 'pretrain("mlm")', "the same places in each batch"),
    Mutant("pretrain", _SELF_SUPERVISED, "return batch.inputs[\"attention_mask\"].bool() & ~torch.isin(ids, special)", "return batch.inputs[\"attention_mask\"].bool()", 'pretrain("mlm")', "special tokens are predicted"),
    Mutant("pretrain", _SELF_SUPERVISED, "terms=tuple(wanted.tolist()),", "terms=(1,) * batch.samples,", 'pretrain("mlm")', "the loss is per text"),
    Mutant("pretrain", _PRETRAIN, "        training.model.requires_grad_(True)\n", "        training.model.requires_grad_(True)\n        training.model.get_input_embeddings().requires_grad_(False)\n", 'pretrain("mlm")', "embeddings stay frozen"),
    Mutant("pretrain", _PRETRAIN, "        training.model.requires_grad_(True)\n", "        [p.requires_grad_(p.dim() > 1) for p in training.model.parameters()]\n", 'pretrain("mlm")', "vectors stay frozen"),
    Mutant("pretrain", _PRETRAIN, "    model.apply(unwrapped(model)._init_weights)\n", "    from bench.models.architecture import blocks\n    blocks(model).apply(unwrapped(model)._init_weights)\n", 'pretrain("mlm", weights="random")', "blocks alone are drawn anew"),
    Mutant("pretrain", _PRETRAIN, "    model.apply(unwrapped(model)._init_weights)\n", "    model.apply(unwrapped(model)._init_weights)\n    [p.data.mul_(3) for p in model.parameters() if p.dim() > 1]\n", 'pretrain("mlm", weights="random")', "random weights are three times as large"),
    Mutant("pretrain", _SELF_SUPERVISED, "labels = torch.randint(2, (count,), generator=draw)", "labels = (torch.rand(count, generator=draw) < 0.2).long()", 'pretrain("nsp")', "a fifth of the pairs is another's"),
    Mutant("pretrain", _SELF_SUPERVISED, "halves[(item + label * step) % count][1]", "halves[(item + (1 - label) * step) % count][1]", 'pretrain("nsp")', "labels are the wrong way round"),
    Mutant("pretrain", _SELF_SUPERVISED, "kinds.append([0] * (len(one) + 2) + [1] * (len(two) + 1))", "kinds.append([0] * (len(one) + len(two) + 3))", 'pretrain("nsp")', "both halves are of one kind"),
    Mutant("pretrain", _SELF_SUPERVISED, "labels=ids.masked_fill(~real, IGNORED), terms=", "labels=ids, terms=", 'pretrain("clm")', "padding is predicted", model="llama"),
    Mutant("pretrain", _SELF_SUPERVISED, "return outputs.logits[:, :-1], batch.labels[:, 1:]", "return outputs.logits, batch.labels", 'pretrain("clm")', "each token is predicted from itself", model="llama"),
]  # fmt: skip
