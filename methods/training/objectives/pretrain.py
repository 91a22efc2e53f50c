"""Self-supervised pretraining."""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Gt, Le

from bench.models.names import plain
from bench.plan.context import PlanContext
from bench.recipe.declarations import Fact
from bench.recipe.method import Trainer
from bench.stage.evidence import Claim, marks
from bench.tasks.base import IGNORED, Answers, Batch, Quality, Split, Task, first
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
        if self.objective == "nsp" and context.batch_size < 2:
            yield "the other text comes out of the same batch; raise budget.batch_size to 2 or more"

    def on_model(self, training: Training) -> None:
        """Put the objective and its head in the place of the task and its head, and unfreeze all that they reach."""
        from bench.models.architecture import body, pools

        given = training.state[self.name] = _Given(training.model, training.task, _sample(training.model))
        if self.weights == "random":
            _draw_anew(training.model)
        if not given.task.generates:
            training.model = _with_head(given.model, _HEADS[self.objective])
            training.task = _OBJECTIVES[self.objective](given.task)
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

        if isinstance(work.task, _Objective):
            originals = work.task.of.batches(
                "train",
                work.tokenizer,
                batch_size=work.budget.batch_size,
                max_length=work.budget.max_length,
                generator=_generator(work.seed),
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


def _generator(seed: int) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(seed)


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


# -- objectives ----------------------------------------------------------------------------------------------


class _Objective(Task):
    """A self-supervised objective on another task's items."""

    def __init__(self, of: Task) -> None:
        self.of = of
        self.name, self.kind = of.name, of.kind  # type: ignore[misc]

    def fingerprint(self) -> str:
        return self.of.fingerprint()

    def model_options(self) -> tuple[str, dict[str, Any]]:
        return self.of.model_options()

    def batches(
        self,
        split: Split,
        tokenizer: Any,
        *,
        batch_size: int,
        max_length: int,
        generator: torch.Generator | None = None,
    ) -> Iterator[Batch]:
        draw = _generator(generator.initial_seed() + 1 if generator else 0)  # not the numbers that items are drawn by
        options: dict[str, Any] = {"batch_size": batch_size, "max_length": max_length, "generator": generator}
        for batch in self.of.batches(split, tokenizer, **options):
            yield self.change(batch, tokenizer, max_length, draw)

    @abc.abstractmethod
    def change(self, batch: Batch, tokenizer: Any, max_length: int, draw: torch.Generator) -> Batch:
        """The objective's batch made of the task's."""

    @abc.abstractmethod
    def claims(self, tokenizer: Any, batches: Iterator[tuple[Batch, Batch]]) -> Iterator[Claim]:
        """What must hold of the objective's batches beside the task's."""

    def rows(self, outputs: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and the labels that they are to predict."""
        return outputs.logits, batch.labels

    def criterion(self, outputs: Any, batch: Batch) -> torch.Tensor:
        import torch

        logits, labels = self.rows(outputs, batch)
        total = torch.nn.functional.cross_entropy(
            logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return total / max(1, batch.weight)  # a micro-batch may have nothing to predict

    def logits(self, outputs: Any, batch: Batch) -> torch.Tensor:
        logits, labels = self.rows(outputs, batch)
        return logits[labels != IGNORED]

    def evaluate(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        batch_size: int,
        max_length: int,
        split: Split = "test",
        uncompressed: nn.Module | Answers | None = None,
        answers: Answers | None = None,
    ) -> Quality:
        import torch

        from bench.models.modes import device_of

        device = device_of(model)
        nats, weight = 0.0, 0
        with torch.no_grad():
            for batch in self.batches(split, tokenizer, batch_size=batch_size, max_length=max_length):
                there = batch.to(device)
                nats += float(self.criterion(model(**there.inputs), there)) * batch.weight
                weight += batch.weight
        return Quality({"loss": nats / weight})


class _Masked(_Objective):
    """Fill gaps, as in section 3.1 of BERT's paper."""

    def change(self, batch: Batch, tokenizer: Any, max_length: int, draw: torch.Generator) -> Batch:
        import torch

        ids = batch.inputs["input_ids"]
        ordinary = _ordinary(batch, tokenizer)
        wanted = torch.tensor([_gaps(int(count)) for count in ordinary.sum(1)])
        # The highest of random numbers; those of special tokens are the lowest.
        order = torch.rand(ids.shape, generator=draw).masked_fill(~ordinary, -1).argsort(1, descending=True)
        chosen = order.argsort(1) < wanted[:, None]
        fate = torch.rand(ids.shape, generator=draw)
        random = torch.randint(len(tokenizer), ids.shape, generator=draw)
        gaps = ids.masked_fill(chosen & (fate < 0.8), tokenizer.mask_token_id)
        gaps = torch.where(chosen & (fate >= 0.9), random, gaps)
        return replace(
            batch,
            inputs={**batch.inputs, "input_ids": gaps},
            labels=ids.masked_fill(~chosen, IGNORED),
            terms=tuple(wanted.tolist()),
        )

    def claims(self, tokenizer: Any, batches: Iterator[tuple[Batch, Batch]]) -> Iterator[Claim]:
        import torch

        wrong = items = 0
        masked, kept, chosen = 0, 0, 0
        drawn: list[int] = []
        again = comparable = specials = 0
        before: torch.Tensor | None = None
        special = torch.tensor(sorted(set(tokenizer.all_special_ids)))
        for batch, original in batches:
            ids, true = batch.inputs["input_ids"].cpu(), original.inputs["input_ids"]
            labels = batch.labels.cpu()
            gaps = labels != IGNORED
            tokens = (original.inputs["attention_mask"].bool() & ~torch.isin(true, special)).sum(1)
            specials += int(torch.isin(true[gaps], special).sum())
            drawn += ids[gaps & (ids != true) & (ids != tokenizer.mask_token_id)].tolist()
            if before is not None and before.shape == gaps.shape:
                again += int((before == gaps).all(1).sum())
                comparable += len(gaps)
            before = gaps
            # 15 % to the nearest token, and one at least.
            enough = (gaps.sum(1) - 0.15 * tokens).abs() <= (1 - 0.15 * tokens).clamp(min=0.5) + 1e-4
            right = enough & (torch.where(gaps, labels, ids) == true).all(1)
            wrong += int((~right).sum())
            items += len(right)
            chosen += int(gaps.sum())
            masked += int((ids[gaps] == tokenizer.mask_token_id).sum())
            kept += int((ids[gaps] == true[gaps]).sum())
            if chosen > 4000:
                break
        yield Claim(
            "15 % of each text's tokens are to be predicted, and the others are as they were",
            items > 0 and not wrong,
            f"{items - wrong} of {items} texts, {chosen:,} tokens",
        )
        yield Claim(
            "of these 80 % are masked and 10 % stay",
            _near(masked, chosen, 0.8) and _near(kept, chosen, 0.1),
            f"{masked / max(1, chosen):.1%} and {kept / max(1, chosen):.1%}",
        )
        yield Claim("no special token is to be predicted", not specials, f"{specials} of {chosen:,}")
        count, vocabulary = max(1, len(drawn)), len(tokenizer)
        mean = sum(drawn) / count
        # Of numbers that are drawn evenly: the deviation of one is a twelfth's root of the range.
        near = abs(mean - (vocabulary - 1) / 2) <= 5 * vocabulary / math.sqrt(12 * count) + 1
        yield Claim(
            "random tokens are drawn from the whole vocabulary",
            near or len(drawn) < 8,
            f"{len(drawn)}, {mean:.0f} in the mean",
        )
        yield Claim(
            "each batch has gaps at other places",
            comparable < 8 or again < 0.5 * comparable,
            f"{again} of {comparable} texts have those of the text before",
        )


class _Next(_Objective):
    """Predict each token from those before it."""

    def rows(self, outputs: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return outputs.logits[:, :-1], batch.labels[:, 1:]

    def change(self, batch: Batch, tokenizer: Any, max_length: int, draw: torch.Generator) -> Batch:
        ids, real = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
        return replace(
            batch, labels=ids.masked_fill(~real, IGNORED), terms=tuple(length - 1 for length in batch.lengths)
        )

    def claims(self, tokenizer: Any, batches: Iterator[tuple[Batch, Batch]]) -> Iterator[Claim]:
        batch, original = next(batches)
        ids, real = original.inputs["input_ids"], original.inputs["attention_mask"].bool()
        same = (batch.labels.cpu()[real] == ids[real]).all() and (batch.labels.cpu()[~real] == IGNORED).all()
        yield Claim("the labels are the texts' own tokens", bool(same), f"{batch.weight} to predict")


class _Sentences(_Objective):
    """Tell a text's own second half (0) from another text's (1), as in section 3.1 of BERT's paper."""

    def change(self, batch: Batch, tokenizer: Any, max_length: int, draw: torch.Generator) -> Batch:
        import torch

        count = batch.samples
        labels = torch.randint(2, (count,), generator=draw)
        shift = torch.randint(1, max(2, count), (count,), generator=draw)
        halves = _halves(batch, tokenizer)
        rows, kinds = [], []
        for item, (label, step) in enumerate(zip(labels.tolist(), shift.tolist(), strict=True)):
            one, two = list(halves[item][0]), list(halves[(item + label * step) % count][1])
            while len(one) + len(two) + 3 > max_length:
                (one if len(one) > len(two) else two).pop()
            rows.append([tokenizer.cls_token_id, *one, tokenizer.sep_token_id, *two, tokenizer.sep_token_id])
            kinds.append([0] * (len(one) + 2) + [1] * (len(two) + 1))
        lengths = tuple(map(len, rows))
        width = max(lengths)
        pad = first(tokenizer.pad_token_id, 0)
        return Batch(
            inputs={
                "input_ids": torch.tensor([row + [pad] * (width - len(row)) for row in rows]),
                "token_type_ids": torch.tensor([kind + [0] * (width - len(kind)) for kind in kinds]),
                "attention_mask": (torch.arange(width) < torch.tensor(lengths)[:, None]).long(),
            },
            labels=labels,
            lengths=lengths,
            terms=(1,) * count,
            items=batch.items,
        )

    def claims(self, tokenizer: Any, batches: Iterator[tuple[Batch, Batch]]) -> Iterator[Claim]:
        wrong = items = other = 0
        for batch, original in batches:
            halves = _halves(original, tokenizer)
            kinds = batch.inputs["token_type_ids"].cpu()
            ids, ordinary = batch.inputs["input_ids"].cpu(), _ordinary(batch, tokenizer).cpu()
            for item, label in enumerate(batch.labels.tolist()):
                one, two = (ids[item][ordinary[item] & (kinds[item] == kind)].tolist() for kind in (0, 1))
                sources = [second for number, (_, second) in enumerate(halves) if (number == item) == (label == 0)]
                follows = any(two == source[: len(two)] for source in sources)
                wrong += not (follows and one == halves[item][0][: len(one)])
                other += label
                items += 1
        yield Claim(
            "second halves are a text's own or another's, as their labels say",
            items > 0 and not wrong,
            f"{items - wrong} of {items}",
        )
        yield Claim("half of them are another's", _near(other, items, 0.5), f"{other / max(1, items):.1%}")


_OBJECTIVES: dict[str, type[_Objective]] = {"mlm": _Masked, "clm": _Next, "nsp": _Sentences}


def _gaps(tokens: int) -> int:
    """How many of a text's tokens are to be predicted: 15 %, and at least one."""
    return min(tokens, max(1, round(0.15 * tokens)))


def _ordinary(batch: Batch, tokenizer: Any) -> torch.Tensor:
    """Where tokens are real and not special."""
    import torch

    ids = batch.inputs["input_ids"]
    special = torch.tensor(sorted(tokenizer.all_special_ids), device=ids.device)
    return batch.inputs["attention_mask"].bool() & ~torch.isin(ids, special)


def _halves(batch: Batch, tokenizer: Any) -> list[tuple[Sequence[int], Sequence[int]]]:
    """Each text's ordinary tokens, cut in the middle."""
    found = []
    for ids, real in zip(batch.inputs["input_ids"].cpu(), _ordinary(batch, tokenizer).cpu(), strict=True):
        tokens = ids[real].tolist()
        found.append((tokens[: len(tokens) // 2], tokens[len(tokens) // 2 :]))
    return found


def _near(count: int, of: int, share: float) -> bool:
    """Whether `count` of so many is `share` within five standard deviations."""
    return of > 0 and abs(count - share * of) <= 5 * math.sqrt(share * (1 - share) * of) + 1
