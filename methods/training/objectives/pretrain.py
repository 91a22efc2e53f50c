"""Self-supervised pretraining."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Gt, Le

from bench.models.names import plain
from bench.plan.context import PlanContext
from bench.recipe.declarations import Fact
from bench.recipe.method import Trainer
from bench.stage.evidence import Claim, marks
from bench.tasks.base import IGNORED, Task
from methods import _own_weights, _refusals

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training

_HEADS = {
    "mlm": "AutoModelForMaskedLM",
    "clm": "AutoModelForCausalLM",
    "nsp": "AutoModelForNextSentencePrediction",
}


@dataclass(frozen=True)
class Pretrain(Trainer):
    """Train every weight on the task's own texts without their labels, from the given weights or from random ones.

    ``"mlm"``, for encoders, is BERT's masked language modelling: of each text's tokens 15 % (at least one) are
    predicted; of these 80 % are masked, 10 % become a random token and 10 % stay. ``"nsp"`` is BERT's next sentence
    prediction: is the second half of a text its own, or another text's? ``"clm"``, for decoders, predicts each token
    from those before it; on a language modelling task that is the task itself.

    On any other task the objective's head stands on the model's body for this training alone. The task's own head
    is as untrained afterwards as before, so the quality right after it is that of a guess: go on, as in
    ``pretrain("mlm") >> full``. With ``weights="random"`` everything is drawn anew first, as the architecture does it.
    The default rate, 1e-4, is that of going on from given weights with a task's own small texts (Gururangan et al. 2020,
    https://arxiv.org/abs/2004.10964); on the default model, 20 steps of 16 and then ``full``, the accuracy was .68 at
    3e-5, .65 at 1e-4 and .21 at 6e-4, and .71 without (one seed each). From random weights give more: RoBERTa-base and
    GPT-3's smallest took 6e-4, with far larger batches. Documentation:
    https://huggingface.co/docs/transformers/tasks/masked_language_modeling
    """

    name = "pretrain"
    traits = frozenset({"own_items"})
    paper = "https://arxiv.org/abs/1810.04805"
    example = 'pretrain("mlm") >> full'
    updates_all_weights = True

    objective: Literal["mlm", "clm", "nsp"]
    weights: Literal["given", "random"] = "given"
    lr: Annotated[float, Gt(0)] = 1e-4
    share: Annotated[float, Gt(0), Le(1)] = 1.0

    @property
    def reinitializes(self) -> bool:
        """Random weights are other values."""
        return self.weights == "random"

    @property
    def refuses(self) -> tuple[tuple[Fact, str], ...]:
        """What has weights that cannot all train; where they are drawn anew, zeros too."""
        plain: tuple[tuple[Fact, str], ...] = (
            ("adapter", _refusals.ADAPTER),
            ("inference_only", _refusals.INFERENCE_ONLY),
            ("quantized", "it trains every weight, and the weights are quantized here; put it first"),
        )
        if self.weights == "given":
            return plain
        return (*plain, ("sparse", "random weights would fill what was pruned; put the pruning behind it"))

    def problems(self, context: PlanContext) -> Iterator[str]:
        """The objective must suit the architecture."""
        if not context.task.reads_texts:
            yield f"it takes its texts from a task whose items are texts, and this one is {context.task.kind}"
        if context.structure.encoder_decoder:
            yield f"a {context.model} model has an encoder and a decoder, and the objectives here are for one of the two"
            return
        structure = context.structure
        if self.objective == "clm" and structure.both_ways:
            yield f'a {context.model} model reads in both directions and sees the next token; use pretrain("mlm")'
        if self.objective == "mlm" and structure.one_way:
            yield f'a {context.model} model reads from the left alone and cannot fill gaps; use pretrain("clm")'
        if self.objective == "nsp" and structure.auto_classes and _HEADS["nsp"] not in structure.auto_classes:
            other = "mlm" if structure.both_ways else "clm"
            yield f'transformers has no next sentence head for a {context.model} model; use pretrain("{other}")'
        if self.objective == "nsp" and context.task.auto_class != "AutoModelForSequenceClassification":
            yield f'pairs are told by the pooler, which a model of a {context.task.kind} task lacks; use pretrain("mlm")'
        if self.objective == "nsp" and context.batch_size < 2:
            yield "the other text comes out of the same batch; raise budget.batch_size to 2 or more"

    def on_model(self, training: Training) -> None:
        """Put the objective and its head in the place of the task and its head, and unfreeze all that they reach."""
        from bench.models.architecture import body, pools
        from methods.training.objectives._shared.self_supervised import OBJECTIVES

        given = training.state[self.name] = _Given(training.model, training.task, _sample(training.model))
        if self.weights == "random":
            _draw_anew(training.model)
        if not given.task.generates:
            training.model = _with_head(given.model, _HEADS[self.objective])
            training.task = OBJECTIVES[self.objective](given.task)
            training.__dict__.pop("probe", None)  # it is another task's
        training.model.requires_grad_(True)
        if self.objective == "mlm":
            for name, parameter in body(training.model).named_parameters():
                parameter.requires_grad_(not pools(name))  # tokens are predicted past it

    def on_end(self, training: Training) -> None:
        """Take the objective and its head off: the task's model, whose body was trained, goes on."""
        given: _Given = training.state[self.name]
        training.model, training.task = given.model, given.task
        training.__dict__.pop("probe", None)

    def removal_evidence(self, work: Training) -> Iterator[Claim]:
        """The model is of the task's class again."""
        from bench.models.architecture import unwrapped

        wanted = work.task.model_options()[0].removeprefix("AutoModel")
        found = type(unwrapped(work.model)).__name__
        yield Claim("the objective's head is off", found.endswith(wanted), f"the model is a {found}")

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """Batches, loss and outputs are the objective's, every weight that they reach moved, and random ones are new."""
        from bench.models.architecture import pools, unwrapped
        from methods.training.objectives._shared.self_supervised import Objective, generator_of

        if isinstance(work.task, Objective):
            originals = work.task.of.batches(
                "train",
                work.tokenizer,
                batch_size=work.budget.batch_size,
                max_length=work.budget.max_length,
                generator=generator_of(work.seed),
            )
            yield from work.task.claims(
                work.tokenizer, itertools.islice(zip(work.batches(), originals, strict=False), 64)
            )
        live, by_hand, classes = _losses(self.objective, work)
        wanted = 2 if self.objective == "nsp" else unwrapped(work.model).config.get_text_config().vocab_size
        yield Claim(
            "the loss is the objective's",
            classes == wanted and math.isclose(live, by_hand, rel_tol=1e-4),
            f"{live:.6g}, by hand {by_hand:.6g}, over {classes:,} classes",
        )
        # Tokens are predicted past a pooler.
        reached = {name for name in _own_weights.names(work.model) if self.objective != "mlm" or not pools(name)}
        frozen = {plain(name) for name, parameter in work.model.named_parameters() if not parameter.requires_grad}
        yield Claim(
            "every weight that it reaches trains",
            bool(reached) and not reached & frozen,
            f"{len(reached - frozen)} of {len(reached)}",
        )
        still, moved = _own_weights.unmoved(before, work, reached)
        yield Claim("and moved: each matrix, and of each kind of vector some", not still, moved)
        if self.weights == "random" and (given := work.state.get(self.name)) is not None:
            import torch

            likeness = float(torch.corrcoef(torch.stack([given.sample, _sample(given.model)]))[0, 1])
            yield Claim("the weights are not those given", abs(likeness) < 0.1, f"their correlation is {likeness:.3f}")
            yield from self._drawn(before, work)

    def _drawn(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """Each matrix began unlike the one that came, and as large as the architecture draws it."""
        import torch
        import transformers

        from bench.models.architecture import unwrapped

        began = {name: mark for name, mark in work.began.items() if isinstance(mark, torch.Tensor) and len(mark) >= 16}
        given = {name: before.projections[name] for name in began if name in before.projections}
        alike = [
            name for name, was in given.items() if float(torch.corrcoef(torch.stack([began[name], was]))[0, 1]) > 0.9
        ]
        yield Claim(
            "each matrix began unlike the one that was given",
            bool(given) and not alike,
            f"{len(given) - len(alike)} of {len(given)}",
        )
        auto_class = "AutoModelForCausalLM" if work.task.generates else _HEADS[self.objective]
        with torch.random.fork_rng():
            fresh = getattr(transformers, auto_class).from_config(unwrapped(work.model).config)
        usual = {name: tensor for name, tensor in marks(fresh).items() if isinstance(tensor, torch.Tensor)}
        sizes = [
            float(began[name].square().mean().sqrt() / usual[name].square().mean().sqrt())
            for name in began
            if name in usual
        ]
        off = [size for size in sizes if not 0.5 < size < 2]
        yield Claim(
            "and as large as the architecture draws it",
            bool(sizes) and not off,
            f"{min(sizes, default=math.nan):.2f} to {max(sizes, default=math.nan):.2f} times, in {len(sizes)} matrices",
        )


@dataclass(frozen=True)
class _Given:
    """The task's model and the task, and some of the model's weights as they were."""

    model: nn.Module
    task: Task
    sample: torch.Tensor


def _sample(model: nn.Module) -> torch.Tensor:
    """Some thousands of weights of each linear layer in the blocks."""
    import torch

    from bench.models.architecture import block_linears

    flat = [layer.weight.detach().flatten() for layer in block_linears(model).values()]
    return torch.cat([weights[:: 1 + len(weights) // 4096].float().cpu() for weights in flat])


def _draw_anew(model: nn.Module) -> None:
    """Draw every weight as the architecture does it, in the shapes that are there."""
    from bench.models.architecture import unwrapped

    for tensor in (*model.parameters(), *model.buffers()):
        # transformers' mark on what it has loaded, which it would not draw over
        tensor.__dict__.pop("_is_hf_initialized", None)
    model.apply(unwrapped(model)._init_weights)


def _with_head(model: nn.Module, auto_class: str) -> nn.Module:
    """A model of `auto_class` around the body of `model`: the same weights, and a new head."""
    import torch
    import transformers

    from bench.models.architecture import body, unwrapped

    there = next(body(model).parameters())
    with torch.device("meta"):  # the body that comes along is not needed
        whole: Any = getattr(transformers, auto_class).from_config(unwrapped(model).config, dtype=there.dtype)
    for name, part in whole.named_children():
        if name == whole.base_model_prefix:
            setattr(whole, name, body(model))
        else:
            part.to_empty(device=there.device).apply(whole._init_weights)
    whole.tie_weights()
    return whole  # type: ignore[no-any-return]


def _losses(objective: str, work: Training) -> tuple[float, float, int]:
    """The loss on the probe batch, by the criterion at work and by hand, and the number of classes."""
    import torch

    from bench.models.modes import evaluating

    batch = work.probe
    with evaluating(work.model), torch.no_grad():
        outputs = work.outputs(batch)
        live = float(work.task.criterion(outputs, batch))
        logits, labels = outputs.logits.double(), batch.labels
    if objective == "clm":
        logits, labels = logits[:, :-1], labels[:, 1:]
    chances = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return live, -float(chances[labels != IGNORED].mean()), logits.shape[-1]
