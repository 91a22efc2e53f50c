"""Text augmentation."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from annotated_types import Ge, Gt, Le

from bench.machine.paths import PathError, find
from bench.models.sources.directory import Directory
from bench.plan.context import PlanContext
from bench.recipe.method import Modifier
from bench.stage.evidence import Claim

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training
    from bench.tasks.base import Batch

_USES = {
    "eda": {"alpha"},
    "embedding_swap": {"alpha", "k"},
    "back_translation": {"forward_model", "backward_model"},
}
"""The options of each way beside ``p``."""


@dataclass(frozen=True)
class Augment(Modifier):
    """Change the text of an item, with probability ``p``, each time that it comes up in training. Labels stay.

    - ``"eda"`` (https://arxiv.org/abs/1901.11196) swaps, deletes or inserts a share ``alpha`` of the text's words, at
      least one; which of the three is drawn. The paper's inserted words are WordNet's synonyms, and it has a fourth
      operation that replaces words by them. There is no WordNet here: inserted words are drawn from the training
      texts, and nothing is replaced. White space becomes single spaces.
    - ``"embedding_swap"`` replaces a share ``alpha`` of the tokens, at least one, each by one of its ``k`` nearest
      neighbours by cosine in the model's own input embeddings as they are then. Special tokens stay
      (https://arxiv.org/abs/1909.10351, without its masked language model).
    - ``"back_translation"`` (https://arxiv.org/abs/1511.06709) translates the text with ``forward_model`` and back with
      ``backward_model``: directories, or names of models in the hub's local cache. Decoding is greedy, so each text has
      one translation, which is made when it is first wanted.

    alpha is 0.1, as EDA's authors advise, and k is 10. EDA's authors add augmented texts to a fixed training set, up to
    16 a text; here they come in the place of their original for half of the time, so that steps compare.
    Augmentation is loading: it is outside of the clock, and its time is the record's ``data_seconds``.
    """

    name = "augment"
    paper = "https://arxiv.org/abs/1901.11196"
    example = 'full + augment("eda")'

    refuses_beside = (
        (
            "own_items",
            "{other} makes items of its own, whose labels are tokens or pairs; augment the training that comes after it",
        ),
    )

    how: Literal["eda", "embedding_swap", "back_translation"]
    p: Annotated[float, Gt(0), Le(1)] = 0.5
    alpha: Annotated[float, Gt(0), Le(1)] | None = None
    k: Annotated[int, Ge(1)] | None = None
    forward_model: str | None = None
    backward_model: str | None = None

    def problems(self, context: PlanContext) -> Iterator[str]:
        """It needs items with texts and labels, its own options alone, and translators that are there."""
        if not context.task.labels_texts:
            yield f"it changes texts and keeps their labels, and those of a {context.task.kind} task belong to its texts' very words"
        options = {name for uses in _USES.values() for name in uses if getattr(self, name) is not None}
        for name in sorted(options - _USES[self.how]):
            yield f"{self.how} has no {name}; it takes p and {' and '.join(sorted(_USES[self.how]))}"
        if self.how == "back_translation":
            for name, model in self._models():
                if model is None:
                    yield f'back_translation needs a {name}, as in {name}="Helsinki-NLP/opus-mt-en-de"'
                elif (folder := _folder(model, context.suite_folder)) is None:
                    yield (
                        f"{name}: `{model}` is no directory, and the hub's local cache has no such model; "
                        f"fetch it first with `hf download {model}`"
                    )
                else:
                    yield from (f"{name}: {problem}" for problem in Directory(folder).problems())

    def reads(self, suite_folder: Path) -> Mapping[str, str]:
        """The translators."""
        folders = {name: _folder(model, suite_folder) for name, model in self._models() if model}
        there = {name: Directory(folder) for name, folder in folders.items() if folder}
        return {f"{self.name} {name}": model.fingerprint() for name, model in there.items() if not model.problems()}

    def _models(self) -> list[tuple[str, str | None]]:
        return [("forward_model", self.forward_model), ("backward_model", self.backward_model)]

    def transform_batch(self, training: Training, batch: Batch) -> Batch:
        """Change some of the items."""
        # Seeded by what is asked for, so that no order of calls matters.
        rng = random.Random(f"{training.seed} {training.step} {batch.items}")
        chosen = [place for place in range(batch.samples) if rng.random() < self.p]
        if not chosen:
            return batch
        if self.how == "embedding_swap":
            return self._swapped(training, batch, chosen, rng)
        texts = training.task.texts("train")  # type: ignore[attr-defined]
        if self.how == "eda":
            changed = [self._eda(texts[batch.items[place]], texts, rng) for place in chosen]
        else:
            changed = self._translated(training, [texts[batch.items[place]] for place in chosen])
        reworded = dict(zip(chosen, changed, strict=True))
        new = training.task.reworded(batch, reworded, training.tokenizer, training.budget.max_length)
        return new.to(training.device)

    def _eda(self, text: str, texts: Sequence[str], rng: random.Random) -> str:
        """One of the three operations; where that changes nothing, as with a single word, insertion."""
        words = text.split()
        count = max(1, int(self._alpha * len(words)))
        operation = rng.choice(("swap", "delete", "insert"))
        changed = list(words)
        if operation == "swap" and len(words) > 1:
            for _ in range(count):
                one, other = rng.sample(range(len(words)), 2)
                changed[one], changed[other] = changed[other], changed[one]
        elif operation == "delete" and len(words) > count:
            gone = set(rng.sample(range(len(words)), count))
            changed = [word for place, word in enumerate(words) if place not in gone]
        if changed == words:
            for _ in range(count):
                changed.insert(rng.randint(0, len(changed)), rng.choice(rng.choice(texts).split() or words))
        return " ".join(changed)

    def _swapped(self, training: Training, batch: Batch, chosen: list[int], rng: random.Random) -> Batch:
        import torch

        from bench.models.architecture import embeddings

        ids = batch.inputs["input_ids"].clone()
        special = set(training.tokenizer.all_special_ids)
        at: list[tuple[int, int]] = []
        for row in chosen:
            tokens = ids[row, : batch.lengths[row]].tolist()
            ordinary = [column for column, token in enumerate(tokens) if token not in special]
            at += [(row, column) for column in rng.sample(ordinary, math.ceil(self._alpha * len(ordinary)))]
        if not at:
            return batch
        rows, columns = zip(*at, strict=True)
        old = ids[rows, columns]
        with torch.no_grad():
            # A vocabulary may be padded with ids that no text has.
            vectors = cast("torch.Tensor", embeddings(training.model).weight)[: len(training.tokenizer)].float()
            # Its own length scales all of a token's similarities alike.
            cosines = vectors[old] @ vectors.T / vectors.norm(dim=1).clamp(min=1e-12)
            never = [token for token in special if token < len(vectors)]
            cosines[:, never] = -torch.inf
            cosines[range(len(old)), old] = -torch.inf
            nearest = cosines.topk(min(self.k or 10, len(vectors) - len(never) - 1)).indices.tolist()
        ids[rows, columns] = torch.tensor([rng.choice(near) for near in nearest], device=ids.device)
        return dataclasses.replace(batch, inputs={**batch.inputs, "input_ids": ids})

    def _translated(self, training: Training, texts: list[str]) -> list[str]:
        if self.name not in training.state:
            folders = [_folder(str(model), training.suite_folder) for _, model in self._models()]
            training.state[self.name] = _ThereAndBack(folders, training.device, training.budget.max_length)
        back: list[str] = training.state[self.name](texts)
        return back

    @property
    def _alpha(self) -> float:
        return self.alpha or 0.1

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """Of a batch's items the share changes, in the way that is said and each step anew, and nothing beside their texts."""
        import torch

        batch, step, tokenizer = work.first_batch or work.probe, work.step, work.tokenizer
        # So many draws that 45 items are to change.
        draws = max(2, math.ceil(45 / (self.p * batch.samples)))
        found: list[Batch] = []
        heard: list[list[str]] = []
        work.tokenizer = listener = _Listener(tokenizer)
        try:
            for work.step in [*range(draws), 0]:
                listener.texts = []
                found.append(self.transform_batch(work, batch))
                heard.append(listener.texts)
        finally:
            work.step, work.tokenizer = step, tokenizer
        same = torch.equal(found[0].inputs["input_ids"], found.pop().inputs["input_ids"])
        heard.pop()
        yield from self._shares(work, batch, found, heard)
        yield Claim("the same step changes them in the same way", same, "the same" if same else "another")
        kept = all(torch.equal(new.labels, batch.labels) and new.items == batch.items for new in found)
        yield Claim("labels are as before", kept, "the same" if kept else "others")
        counted = all(tuple(new.inputs["attention_mask"].sum(1).tolist()) == new.lengths for new in found)
        longest = max(max(new.lengths) for new in found)
        yield Claim(
            "the real tokens are counted, and no more than the budget's",
            counted and longest <= work.budget.max_length,
            f"{sum(new.tokens for new in found):,} tokens, {longest} in the longest",
        )
        # An unknown word's token is special, and words come and go.
        special = set(work.tokenizer.all_special_ids) - {work.tokenizer.unk_token_id}
        untouched = all(
            [token for token in _row(new, place) if token in special]
            == [token for token in _row(batch, place) if token in special]
            for new in found
            for place in range(batch.samples)
        )
        yield Claim("special tokens are as before", untouched, "the same" if untouched else "others")

    def _shares(self, work: Training, batch: Batch, found: list[Batch], heard: list[list[str]]) -> Iterator[Claim]:
        """How many items change, and how."""
        if self.how == "embedding_swap":
            special = set(work.tokenizer.all_special_ids)
            can = [place for place in range(batch.samples) if {*_row(batch, place)} - special]
            changes = [[place for place in can if _row(new, place) != _row(batch, place)] for new in found]
            yield from self._as_often(changes, len(can), of_all=True)
            yield self._near(work, batch, found, changes)
            return
        texts = work.task.texts("train")  # type: ignore[attr-defined]
        originals = [texts[item] for item in batch.items]
        given = [said or originals for said in heard]
        changes = [
            [place for place, text in enumerate(said) if text != originals[place]]
            if len(said) == len(originals)
            else []
            for said in given
        ]
        yield from self._as_often(changes, batch.samples, of_all=self.how == "eda")
        if self.how == "eda":
            pairs = [(originals[place], said[place]) for said, of in zip(given, changes, strict=True) for place in of]
            yield from self._operations(pairs, {word for text in texts for word in text.split()})

    def _as_often(self, changes: list[list[int]], items: int, *, of_all: bool) -> Iterator[Claim]:
        """A translation may come back as the text that it was of, so then fewer may change."""
        changed, drawn = sum(map(len, changes)), items * len(changes)
        apart = 4 * math.sqrt(self.p * (1 - self.p) * drawn)
        least = max(1.0, self.p * drawn - apart) if of_all else 1.0
        yield Claim(
            f"items change with a probability of {self.p:g}",
            least <= changed <= self.p * drawn + apart,
            f"{changed} of {drawn} changed, {least:.0f} to {self.p * drawn + apart:.0f} are likely",
        )
        if self.p < 1:
            others = len(set(map(tuple, changes)))
            yield Claim(
                "other steps change other items", others > 1, f"{others} different choices in {len(changes)} steps"
            )

    def _operations(self, pairs: list[tuple[str, str]], vocabulary: set[str]) -> Iterator[Claim]:
        """What became of each changed text, told from its words alone."""
        kinds: Counter[str] = Counter()
        wide = own = put_in = 0
        for text, other in pairs:
            was, now = text.split(), other.split()
            count = max(1, int((self.alpha or 0.1) * len(was)))
            wide += len(was) > max(2, count)
            if len(now) == len(was) + count and _within(was, now):
                words = Counter(now) - Counter(was)
                kinds["insert" if vocabulary.issuperset(words) else "other"] += 1
                put_in, own = put_in + sum(words.values()), own + sum(n for word, n in words.items() if word in was)
            elif len(now) == len(was) - count and _within(now, was):
                kinds["delete"] += 1
            elif Counter(now) == Counter(was) and sum(a != b for a, b in zip(was, now, strict=True)) <= 2 * count:
                kinds["swap"] += 1
            else:
                kinds["other"] += 1
        yield Claim(
            f"each has {self.alpha or 0.1:g} of its words swapped, deleted or inserted, at least one",
            bool(pairs) and not kinds["other"],
            ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())) or "none changed",
        )
        # By chance one of three is missing from so many once in 60,000 times.
        missing = [kind for kind in ("swap", "delete", "insert") if not kinds[kind]]
        yield Claim(
            "all three occur, and words of other texts come in",
            (wide < 30 or not missing) and (put_in < 10 or own < put_in),
            f"{len(pairs)} changes, {put_in - own} of {put_in} inserted words are no word of the text",
        )

    def _near(self, work: Training, batch: Batch, found: list[Batch], changes: list[list[int]]) -> Claim:
        """Each changed token is among the nearest of the one that it stands for, and there are as many as said."""

        from bench.models.architecture import embeddings

        table = cast("torch.Tensor", embeddings(work.model).weight).detach()[: len(work.tokenizer)].double()
        units = table / table.square().sum(1, keepdim=True).sqrt().clamp(min=1e-12)
        special = sorted(set(work.tokenizer.all_special_ids))
        wrong = of = 0
        for new, places in zip(found, changes, strict=True):
            for place in places:
                was, now = _row(batch, place), _row(new, place)
                ordinary = sum(token not in special for token in was)
                swapped = [(one, other) for one, other in zip(was, now, strict=True) if one != other]
                right = len(swapped) == math.ceil((self.alpha or 0.1) * ordinary)
                for one, other in swapped:
                    cosines = units @ units[one]
                    cosines[[one, *(token for token in special if token < len(units))]] = -2
                    least = cosines.sort(descending=True).values[min(self.k or 10, len(units)) - 1]
                    right &= bool(cosines[other] >= least - 1e-6)
                wrong, of = wrong + (not right), of + 1
        return Claim(
            f"of each that changes {self.alpha or 0.1:g} of the tokens do, each to one of its {self.k or 10} nearest",
            of > 0 and not wrong,
            f"{of - wrong} of {of} items",
        )


class _Listener:
    """A tokenizer that notes the texts that it is given."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.texts: list[str] = []

    def __call__(self, texts: Any, **options: Any) -> Any:
        self.texts += [texts] if isinstance(texts, str) else texts
        return self._tokenizer(texts, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)


def _within(few: Sequence[str], many: Sequence[str]) -> bool:
    """Whether the words `few` stand in `many` in their order."""
    left = iter(many)
    return all(word in left for word in few)


def _row(batch: Batch, place: int) -> list[int]:
    """An item's real tokens."""
    tokens: list[int] = batch.inputs["input_ids"][place, : batch.lengths[place]].tolist()
    return tokens


def _folder(model: str, suite_folder: Path) -> Path | None:
    """Where `model` is: a directory seen from `suite_folder`, or one in the hub's cache."""
    try:
        path = find(model, suite_folder)
    except PathError:
        return None
    if path.is_dir():
        return path
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model, "config.json")
    except HFValidationError:  # a path, but of no directory
        return None
    return Path(cached).parent if isinstance(cached, str) else None


class _ThereAndBack:
    """Two translators; what they made of a text is kept."""

    def __init__(self, folders: Sequence[Path | None], device: torch.device, length: int) -> None:
        import torch
        import transformers

        self.length = length
        self.known: dict[str, str] = {}
        self.translators = []
        with torch.random.fork_rng():
            for folder in folders:
                tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
                model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, local_files_only=True)
                self.translators.append((tokenizer, model.to(device).eval()))

    def __call__(self, texts: list[str]) -> list[str]:
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        if new:
            back = new
            for tokenizer, model in self.translators:
                back = self._translate(back, tokenizer, model)
            # Of some texts nothing comes back.
            self.known.update((text, other.strip() or text) for text, other in zip(new, back, strict=True))
        return [self.known[text] for text in texts]

    def _translate(self, texts: list[str], tokenizer: Any, model: Any) -> list[str]:
        import torch

        inputs = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=self.length)
        with torch.no_grad():
            made = model.generate(**inputs.to(model.device), max_new_tokens=self.length, num_beams=1, do_sample=False)
        decoded: list[str] = tokenizer.batch_decode(made, skip_special_tokens=True)
        return decoded
