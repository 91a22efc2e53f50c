"""Text that a model writes for its score: greedily, and the same whatever else is in its batch."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.models import architecture
from bench.models.modes import device_of
from bench.tasks.base import first


class CannotWrite(Exception):
    """The model, as a method made it, does not write text. The message says why."""


@dataclass(frozen=True)
class Written:
    """What a model wrote after each prompt, in their order, and how long it took, in seconds."""

    texts: tuple[str, ...]
    seconds: float


def greedy(
    model: torch.nn.Module,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    batch_size: int,
    max_new_tokens: int,
) -> Written:
    """Let `model`, which is in evaluation mode, go on after each of `prompts`, which are token ids.

    Each token is the likeliest, until the model's own end or `max_new_tokens`; what its generation configuration says of
    sampling, beams, lengths and penalties does not count. A decoder's prompts are padded on the left, an encoder's on the
    right. Prompts of like length go together, and equally long ones alone where a method puts virtual tokens before them.

    Raises:
        CannotWrite: another runtime, an ensemble or the like took the place of transformers' model.
    """
    inner = architecture.unwrapped(model)
    if not hasattr(inner, "generate") or not hasattr(inner, "generation_config"):
        raise CannotWrite(f"a {type(inner).__name__} has no `generate`, so it writes no text to be scored")
    left = not inner.config.is_encoder_decoder
    device = device_of(model)
    pad = first(tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    texts = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda item: len(prompts[item]))
    started = time.perf_counter()
    with torch.no_grad(), _greedily(inner, tokenizer, pad, max_new_tokens):
        for items in _batches(order, prompts, batch_size, alike=_has_virtual_tokens(model)):
            width = max(1, *(len(prompts[item]) for item in items))
            ids = torch.full((len(items), width), pad)
            mask = torch.zeros_like(ids)
            for row, item in enumerate(items):
                prompt = torch.tensor(prompts[item], dtype=torch.long)
                where = slice(width - len(prompt), width) if left else slice(0, len(prompt))
                ids[row, where], mask[row, where] = prompt, 1
            found = model.generate(input_ids=ids.to(device), attention_mask=mask.to(device))  # type: ignore[operator]
            # A decoder gives the prompt back before what it wrote, and an encoder-decoder its token for the beginning.
            new = found[:, width:] if left else found[:, 1:]
            for item, text in zip(items, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
                texts[item] = text.strip()
    return Written(tuple(texts), time.perf_counter() - started)


def _batches(
    order: Sequence[int], prompts: Sequence[Sequence[int]], batch_size: int, *, alike: bool
) -> Iterator[Sequence[int]]:
    """`order` in parts of at most `batch_size`; of prompts that are equally long where they are to be `alike`."""
    groups = [list(group) for _, group in itertools.groupby(order, lambda item: len(prompts[item]) if alike else 0)]
    for group in groups:
        yield from (group[start : start + batch_size] for start in range(0, len(group), batch_size))


def _has_virtual_tokens(model: torch.nn.Module) -> bool:
    """Whether PEFT puts tokens before each row: between these and a prompt, padding would count as distance."""
    return bool(getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False))


_TOKENS = (
    "bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_bos_token_id", "bad_words_ids", "suppress_tokens",
    "begin_suppress_tokens",
)  # fmt: skip
"""What a generation configuration says of a model's tokens: those that begin and end a text, and those never written."""


@contextlib.contextmanager
def _greedily(inner: Any, tokenizer: Any, pad: int, max_new_tokens: int) -> Iterator[Any]:
    """Inside, the model's generation configuration has its tokens and nothing else of what it had."""
    from transformers import GenerationConfig

    own, config = inner.generation_config, inner.config.get_text_config()
    known = {name: _given(getattr(own, name, None), getattr(config, name, None)) for name in _TOKENS}
    if known["eos_token_id"] is None:
        known["eos_token_id"] = tokenizer.eos_token_id
    inner.generation_config = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, use_cache=True, pad_token_id=pad, **known
    )
    try:
        yield
    finally:
        inner.generation_config = own


def _given(one: Any, other: Any) -> Any:
    return other if one is None else one
