"""Text augmentation."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from annotated_types import Ge, Gt, Le

from bench.evidence import Claim
from bench.method import Modifier, Place
from bench.models.directory import Directory

if TYPE_CHECKING:
    import torch

    from bench.evidence import Snapshot
    from bench.loop import Training
    from bench.tasks.base import Batch
    from bench.work import Work

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

    how: Literal["eda", "embedding_swap", "back_translation"]
    p: Annotated[float, Gt(0), Le(1)] = 0.5
    alpha: Annotated[float, Gt(0), Le(1)] | None = None
    k: Annotated[int, Ge(1)] | None = None
    forward_model: str | None = None
    backward_model: str | None = None

    def problems(self, place: Place) -> Iterator[str]:
        """It needs items with texts and labels, its own options alone, and translators that are there."""
        if place.task != "classification":
            yield f"it changes texts and keeps their labels, and a {place.task} task's labels are its texts"
        if place.stage.base.name == "pretrain":
            yield "pretrain makes items of its own, whose labels are tokens or pairs; augment the training that comes after it"
        options = {name for uses in _USES.values() for name in uses if getattr(self, name) is not None}
        for name in sorted(options - _USES[self.how]):
            yield f"{self.how} has no {name}; it takes p and {' and '.join(sorted(_USES[self.how]))}"
        if self.how == "back_translation":
            for name, model in self._models():
                if model is None:
                    yield f'back_translation needs a {name}, as in {name}="Helsinki-NLP/opus-mt-en-de"'
                elif (folder := _folder(model, place.base)) is None:
                    yield (
                        f"{name}: `{model}` is no directory, and the hub's local cache has no such model; "
                        f"fetch it first with `hf download {model}`"
                    )
                else:
                    yield from (f"{name}: {problem}" for problem in Directory(folder).problems())

    def reads(self, base: Path) -> Mapping[str, str]:
        """The translators."""
        folders = {name: _folder(model, base) for name, model in self._models() if model}
        there = {name: Directory(folder) for name, folder in folders.items() if folder}
        return {f"{self.name} {name}": model.fingerprint() for name, model in there.items() if not model.problems()}

    def _models(self) -> list[tuple[str, str | None]]:
        return [("forward_model", self.forward_model), ("backward_model", self.backward_model)]

    def on_batch(self, training: Training, batch: Batch) -> Batch:
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
        return _reencoded(training, batch, dict(zip(chosen, changed, strict=True)))

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

        from bench.architecture import embeddings

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
        if self.name not in training.notes:
            folders = [_folder(str(model), training.base) for _, model in self._models()]
            training.notes[self.name] = _ThereAndBack(folders, training.device, training.budget.max_length)
        back: list[str] = training.notes[self.name](texts)
        return back

    @property
    def _alpha(self) -> float:
        return self.alpha or 0.1

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """Of a probe's items about the share changes, always in the same way, and nothing changes beside their texts."""
        import torch

        from bench.loop import Training

        assert isinstance(work, Training)
        probe, step = work.probe, work.step
        # So many draws that ten items are to change.
        draws = math.ceil(10 / (self.p * probe.samples))
        found: list[Batch] = []
        for work.step in [*range(draws), 0]:
            found.append(self.on_batch(work, probe))
        work.step = step
        same = torch.equal(found[0].inputs["input_ids"], found.pop().inputs["input_ids"])
        changed = sum(_row(new, place) != _row(probe, place) for new in found for place in range(probe.samples))
        items = draws * probe.samples
        most = self.p * items + 4 * math.sqrt(self.p * (1 - self.p) * items)
        yield Claim(
            f"items change with a probability of {self.p:g}", 0 < changed <= most, f"{changed} of {items} changed"
        )
        yield Claim("the same step changes them in the same way", same, "the same" if same else "another")
        kept = all(torch.equal(new.labels, probe.labels) and new.items == probe.items for new in found)
        yield Claim("labels are as before", kept, "the same" if kept else "others")
        counted = all(tuple(new.inputs["attention_mask"].sum(1).tolist()) == new.lengths for new in found)
        yield Claim("the real tokens are counted", counted, f"{sum(new.tokens for new in found):,} tokens")
        # An unknown word's token is special, and words come and go.
        special = set(work.tokenizer.all_special_ids) - {work.tokenizer.unk_token_id}
        untouched = all(
            [token for token in _row(new, place) if token in special]
            == [token for token in _row(probe, place) if token in special]
            for new in found
            for place in range(probe.samples)
        )
        yield Claim("special tokens are as before", untouched, "the same" if untouched else "others")


def _row(batch: Batch, place: int) -> list[int]:
    """An item's real tokens."""
    tokens: list[int] = batch.inputs["input_ids"][place, : batch.lengths[place]].tolist()
    return tokens


def _reencoded(training: Training, batch: Batch, changed: Mapping[int, str]) -> Batch:
    """The batch made again from its items' texts, some of them changed."""
    from bench.tasks.classification import Encoded

    texts, targets = training.task.texts("train"), training.task.targets("train")  # type: ignore[attr-defined]
    encoded = Encoded(
        training.tokenizer,
        [changed.get(place, texts[item]) for place, item in enumerate(batch.items)],
        [targets[item] for item in batch.items],
        training.budget.max_length,
    )
    new = encoded.batch(range(batch.samples))
    return dataclasses.replace(new, items=batch.items).to(training.device)


def _folder(model: str, base: Path) -> Path | None:
    """Where `model` is: a directory seen from `base`, or one in the hub's cache."""
    path = base / Path(model).expanduser()
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
