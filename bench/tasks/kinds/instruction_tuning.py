"""Instruction tuning: learn the answers of conversations, by the chat template of the model's own tokenizer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from pydantic import Field

from bench.recipe.claim import Claim
from bench.tasks.base import IGNORED, Answers, Batch, Chance, Quality, Retention, Split, TaskError
from bench.tasks.item_task import ItemTask
from bench.tasks.items import Item
from bench.tasks.rows import Row
from bench.tasks.scores import Score, mean, quality
from bench.tasks.table import DataTable, Name

if TYPE_CHECKING:
    import torch

    from bench.models.structure import Structure
    from bench.tasks.conversations import Conversations, Messages

_ROLES = ("system", "user", "assistant")


class ConversationTable(DataTable):
    """Conversations, whose answers are learned."""

    messages: Name | None = Field(
        None, description='the column that holds all turns, as [{"role": "user", "content": "..."}, ...]'
    )
    packing: bool = Field(
        False,
        description="put several items of training into a row of max_length tokens, which see nothing of each other",
    )
    generate: bool = Field(False, description="let the model write each last answer too, for ROUGE-L; it takes a while")
    max_new_tokens: int = Field(128, ge=1, description="tokens that the model writes for an answer, at most")


class InstructionTable(ConversationTable):
    """Prompts with their responses, or conversations."""

    prompt: Name = Field("prompt", description="the column that holds what is asked")
    response: Name = Field("response", description="the column that holds the right answer")
    system: Name | None = Field(None, description="the column that holds the system's message, if there is one")


class InstructionTuning(ItemTask["Conversations"]):
    """Conversations whose answers are learned: of each, every turn of the assistant, with the token that ends it.

    Where the tokenizer has no chat template, :data:`bench.tasks.conversations.PLAIN` is used. A prompt may have several
    answers; all that begin with one prompt are in one split.
    """

    kind = "instruction_tuning"
    metrics = ("bits_per_byte", "perplexity", "token_accuracy", "rouge_l")
    primary = "bits_per_byte"
    learns = "from prompts with their responses, or conversations, of which the answers alone are predicted"
    table: ClassVar[type[DataTable]] = InstructionTable
    auto_class = "AutoModelForCausalLM"
    new_head = False
    generates = True
    peft_task_type = "CAUSAL_LM"
    reads_texts = False
    predicts_classes = True
    several_answers = True

    def __init__(self, table: DataTable | None = None, suite_folder: Path = Path()) -> None:
        super().__init__(table, suite_folder)
        if not isinstance(table, ConversationTable) or not table.generate:
            if self.primary == "rouge_l":
                raise TaskError("task.metric: rouge_l is of text that the model writes; give generate = true as well")
            self.writes = False
        else:
            self.writes = True
            self.written_tokens = table.max_new_tokens
        self.packing = isinstance(table, ConversationTable) and table.packing

    # -- planning, without torch -----------------------------------------------------------------------------

    @classmethod
    def columns(cls, table: Any) -> tuple[str, ...]:
        """The messages; or the prompt and the response, and the system's message where there is one."""
        if table.messages is not None:
            return (table.messages,)
        return (table.prompt, table.response, *([table.system] if table.system is not None else []))

    def item(self, row: Row) -> Item:
        """A conversation."""
        first, *others = row.rows.columns
        if not others:
            return conversation(_messages(row, first))
        texts = [row.text(column).strip() for column in row.rows.columns]
        roles = ("user", "assistant", "system")
        turns = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
        return conversation([*turns[2:], *turns[:2]])

    def model_problem(self, model_type: str, structure: Structure) -> str:
        """A decoder alone learns what comes next; packing takes one that tells items apart by their positions."""
        if structure.encoder_decoder:
            return (
                f'a {model_type} model has an encoder and a decoder; give kind = "seq2seq", with the prompt as `text` and the '
                "response as `target`, or use a decoder, such as tiny-llama"
            )
        if structure.both_ways:
            return f"a {model_type} model reads in both directions and writes no answers; use a decoder, such as tiny-llama"
        if self.packing and not structure.packs:
            return (
                f"packing: transformers' code of a {model_type} model does not keep the items of a row apart by their "
                "positions, so they would see each other; leave packing out"
            )
        return ""

    def model_notes(self, structure: Structure) -> Iterator[str]:
        """Whose template it is."""
        if not structure.chat_template:
            yield (
                f"{self.name}: the tokenizer has no chat template, so turns are told apart by plain lines, such as `### User:`"
            )

    # -- in a stage's own process ----------------------------------------------------------------------------

    def encode(self, split: Split, tokenizer: Any, max_length: int) -> Conversations:
        """Conversations as token ids; those of training in rows of several where packing is asked for."""
        from bench.tasks.conversations import Conversations, Packed

        of = Packed if self.packing and split == "train" else Conversations
        return of(tokenizer, self.data.answers(split), max_length, self.made_of(split))

    def training_items(self) -> int | None:
        """How many items training has; rows of several are known with the tokenizer alone."""
        return None if self.packing else super().training_items()

    def criterion(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Cross entropy in float32, in nats, the mean over the answers' tokens."""
        from bench.tasks.next_token import criterion

        return criterion(outputs, batch)

    def logits(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """``[tokens of answers, vocabulary]``."""
        from bench.tasks.next_token import logits

        return logits(outputs, batch)

    def evidence(self, model: torch.nn.Module, tokenizer: Any, batch: Batch, max_length: int) -> Iterator[Claim]:
        """No token of a prompt is in the loss and every one of an answer is; and packed items see nothing of each other."""
        from bench.tasks.conversations import Packed

        encoded = self.encoded("train", tokenizer, max_length)
        rows = [encoded.packs[item] if isinstance(encoded, Packed) else [item] for item in batch.items]
        conversations = self.data.answers("train")
        texts = [
            [_content(each) for item in row for each in conversations[item] if each["role"] == "assistant"]
            for row in rows
        ]
        cut = {number for number, row in enumerate(rows) if any(encoded.facts(item)[2] for item in row)}
        yield answers_alone(tokenizer, batch, texts, cut)
        if self.packing and (claim := _apart(model, batch)) is not None:
            yield claim

    def evaluate(
        self,
        model: torch.nn.Module,
        tokenizer: Any,
        *,
        batch_size: int,
        max_length: int,
        split: Split = "test",
        uncompressed: torch.nn.Module | Answers | None = None,
        answers: Answers | None = None,
    ) -> Quality:
        """Bits per byte of the answers, perplexity and accuracy of their tokens; ROUGE-L of written last answers if asked for.

        Each has its items' parts where it is primary. ``extra`` has the sums, how many items lost their beginning, and the
        seconds that writing took.

        Raises:
            TaskError: the split has no conversations.
        """
        import torch

        from bench.models.modes import device_of
        from bench.tasks.conversations import Conversations
        from bench.tasks.next_token import losses

        assert not isinstance(uncompressed, list), "answers of a language model are not kept"
        encoded = Conversations(tokenizer, self.data.answers(split), max_length, self.made_of(split))
        if not len(encoded):
            raise TaskError(f"{self.name}: there are no {split} texts")
        nats, hits = [0.0] * len(encoded), 0
        retention = Retention()
        order = sorted(range(len(encoded)), key=lambda item: encoded.lengths[item])
        with torch.no_grad():
            for start in range(0, len(order), batch_size):
                batch = encoded.batch(order[start : start + batch_size]).to(device_of(model))
                found, right = losses(model, batch, uncompressed, retention)
                hits += right
                for item, each in zip(batch.items, found, strict=True):
                    nats[item] = each
        facts = [encoded.facts(item) for item in range(len(encoded))]
        scores = of_tokens(nats, hits, [tokens for tokens, _, _ in facts], [size for _, size, _ in facts])
        extra: dict[str, Any] = {
            "nats": math.fsum(nats),
            "tokens": sum(tokens for tokens, _, _ in facts),
            "bytes": sum(size for _, size, _ in facts),
            "cut": sum(cut for _, _, cut in facts),
        }
        if self.writes:
            score, extra["generation_seconds"] = self._written(model, tokenizer, split, batch_size, max_length)
            scores |= score
        result = quality(scores, self.primary, extra=extra)
        return result if uncompressed is None else replace(result, metrics={**result.metrics, **retention.metrics()})

    def _written(
        self, model: torch.nn.Module, tokenizer: Any, split: Split, batch_size: int, max_length: int
    ) -> tuple[dict[str, Score], float]:
        """ROUGE-L of the last answer of each conversation, written after all before it, and the seconds that it took."""
        from bench.tasks.conversations import rendered
        from bench.tasks.generate import greedy
        from bench.tasks.overlap import rouge

        conversations = list(self.data.answers(split))
        prompts = [rendered(tokenizer, each[:-1], answer_next=True)[-max_length:] for each in conversations]
        written = greedy(model, tokenizer, prompts, batch_size=batch_size, max_new_tokens=self.written_tokens)
        return rouge([_content(each[-1]) for each in conversations], written.texts, "rouge_l"), written.seconds

    def chance(self, tokenizer: Any, max_length: int) -> Chance:
        """All tokens of the vocabulary are equally likely."""
        from bench.tasks.conversations import Conversations

        encoded = Conversations(tokenizer, self.data.answers("test"), max_length, self.made_of("test"))
        facts = [encoded.facts(item) for item in range(len(encoded))]
        size = len(tokenizer)
        metrics = {
            "bits_per_byte": sum(tokens for tokens, _, _ in facts)
            * math.log2(size)
            / sum(each for _, each, _ in facts),
            "perplexity": float(size),
            "token_accuracy": 1 / size,
        }
        return Chance(f"each of the {size:,} tokens of the vocabulary, equally likely at each place", metrics)


def conversation(messages: Messages) -> Item:
    """A conversation as an item: what stands before its first answer is its text. What follows the last answer is left out."""
    places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    prompt = "\n\n".join(message["content"] for message in messages[: places[0]])
    return Item((prompt,), [dict(message) for message in messages[: places[-1] + 1]])


def _messages(row: Row, column: str) -> Messages:
    """The turns in a row.

    Raises:
        TaskError: they are no conversation with an answer.
    """
    found = row.values[column]
    shape = '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'
    if not isinstance(found, list) or not found:
        raise row.error(f"`{column}` is a list of turns, as {shape}, found {found!r:.60}")
    for number, turn in enumerate(found, 1):
        if not isinstance(turn, Mapping) or not {"role", "content"} <= turn.keys():
            raise row.error(
                f"`{column}`, turn {number}: it has a role and a content, as in {shape}, found {turn!r:.60}"
            )
        if turn["role"] not in _ROLES:
            raise row.error(f"`{column}`, turn {number}: its role is {turn['role']!r}; known: {', '.join(_ROLES)}")
        if not isinstance(turn["content"], str) or not turn["content"].strip():
            raise row.error(
                f"`{column}`, turn {number}: its content is empty or no text; fill it in or take the row out"
            )
    roles = [turn["role"] for turn in found]
    if "assistant" not in roles:
        raise row.error(f"`{column}`: no turn is the assistant's, so there is nothing to learn; take the row out")
    if roles[0] == "assistant":
        raise row.error(f"`{column}`: the first turn is the assistant's, and answers nothing; take it out")
    for number, (one, other) in enumerate(itertools.pairwise(roles), 2):
        if one == other == "assistant":
            raise row.error(f"`{column}`, turn {number}: the assistant's turn follows another one; make one of both")
    return [{"role": turn["role"], "content": turn["content"].strip()} for turn in found]


def _content(message: Mapping[str, str]) -> str:
    return message["content"]


def of_tokens(nats: Sequence[float], hits: int, tokens: Sequence[int], sizes: Sequence[int]) -> dict[str, Score]:
    """Scores of predicted tokens: `nats`, how many there are and the bytes that they spell, of each item.

    An item's part in the bits per byte is its bits over the mean bytes of an item; in the perplexity it is unknown.
    """
    total, size, count = math.fsum(nats), sum(sizes), sum(tokens)
    bits = len(sizes) / (math.log(2) * size)
    try:
        perplexity = math.exp(total / count)
    except OverflowError:
        perplexity = math.inf
    return {
        "bits_per_byte": Score(total / math.log(2) / size, mean([each * bits for each in nats]).items),
        "perplexity": Score(perplexity),
        "token_accuracy": Score(hits / count),
    }


def answers_alone(tokenizer: Any, batch: Batch, texts: Sequence[Sequence[str]], cut: set[int]) -> Claim:
    """That the tokens in the loss spell the answers of each row, `texts`, and nothing else; of rows that are `cut`, their ends.

    It reads labels and token ids alone, and tokenizes the answers by themselves.
    """
    end = tokenizer.eos_token_id
    added = set(tokenizer.added_tokens_decoder)
    wrong, spelled = [], 0
    for row, (labels, ids) in enumerate(zip(batch.labels.tolist(), batch.inputs["input_ids"].tolist(), strict=True)):
        found: list[str] = []
        place = 0
        while place < len(labels):
            if labels[place] == IGNORED:
                place += 1
                continue
            start = place
            # An answer ends with its end, where the next one may follow at once.
            while place < len(labels) and labels[place] != IGNORED:
                place += 1
                if labels[place - 1] == end:
                    break
            run = labels[start:place]
            spoken = [token for token in run if token not in added]
            found.append(_letters(tokenizer.decode(spoken)))
            if run != ids[start:place] or (place < batch.lengths[row] and ids[place] == end != run[-1]):
                wrong.append(row)  # it learns another token than the one there, or not the end
        wanted = [
            _letters(tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"])) for text in texts[row]
        ]
        spelled += len(found)
        if found != wanted and not (row in cut and _ends(wanted, found)):
            wrong.append(row)
    return Claim(
        "no token of a prompt is in the loss, and every token of an answer is",
        not wrong and spelled > 0,
        f"{spelled} answers in {len(texts)} rows" + (f", wrong in row {wrong[0] + 1}" if wrong else ""),
    )


def _letters(text: str) -> str:
    """`text` without white space, which tokenizers give back in their own ways."""
    return "".join(text.split())


def _ends(wanted: Sequence[str], found: Sequence[str]) -> bool:
    """Whether joined `found` is a part of joined `wanted`, as of conversations that lost their beginnings."""
    rest = iter(wanted)
    return all(any(whole.endswith(part) for whole in rest) for part in found)


def _apart(model: torch.nn.Module, batch: Batch) -> Claim | None:
    """That in a row with several items, no answer of a later one depends on the first; None where no row has several."""
    import torch

    from bench.models import architecture
    from bench.models.modes import device_of, evaluating

    positions = batch.inputs["position_ids"]
    rows = [row for row in range(batch.samples) if int((positions[row, : batch.lengths[row]] == 0).sum()) > 1]
    if not rows:
        return None
    row = rows[0]
    begin = int((positions[row] == 0).nonzero()[1])
    inputs = {name: tensor[row : row + 1].to(device_of(model)) for name, tensor in batch.inputs.items()}
    seen: list[torch.Tensor] = []

    def watch(module: torch.nn.Module, given: Any, output: torch.Tensor) -> torch.Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    hook = architecture.embeddings(model).register_forward_hook(watch)
    try:
        with evaluating(model), torch.enable_grad():
            logits = cast("torch.Tensor", model(**inputs).logits)
            (slope,) = torch.autograd.grad(logits[:, begin:].float().square().sum(), seen[:1])
    finally:
        hook.remove()
    leaked, own = float(slope[:, :begin].abs().max()), float(slope[:, begin:].abs().max())
    return Claim(
        "the items of a packed row see nothing of each other",
        leaked == 0 and own > 0,
        f"the slope of later items is {leaked:.1e} along the first one's embeddings and {own:.1e} along their own",
    )
