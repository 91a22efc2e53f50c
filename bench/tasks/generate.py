"""Text that a model writes for its score: greedily, and the same whatever else is in its batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
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
    right. Prompts of like length go together.

    Raises:
        CannotWrite: another runtime, an ensemble or the like took the place of transformers' model.
    """
    inner = architecture.unwrapped(model)
    if not hasattr(inner, "generate") or not hasattr(inner, "generation_config"):
        raise CannotWrite(f"a {type(inner).__name__} has no `generate`, so it writes no text to be scored")
    left = not inner.config.is_encoder_decoder
    device = device_of(model)
    pad = first(tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    options = _options(inner, tokenizer, pad, max_new_tokens)
    texts = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda item: len(prompts[item]))
    started = time.perf_counter()
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            items = order[start : start + batch_size]
            width = max(1, *(len(prompts[item]) for item in items))
            ids = torch.full((len(items), width), pad)
            mask = torch.zeros_like(ids)
            for row, item in enumerate(items):
                prompt = torch.tensor(prompts[item], dtype=torch.long)
                where = slice(width - len(prompt), width) if left else slice(0, len(prompt))
                ids[row, where], mask[row, where] = prompt, 1
            found = model.generate(  # type: ignore[operator]
                input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=options
            )
            # A decoder gives the prompt back before what it wrote, and an encoder-decoder its token for the beginning.
            new = found[:, width:] if left else found[:, 1:]
            for item, text in zip(items, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
                texts[item] = text.strip()
    return Written(tuple(texts), time.perf_counter() - started)


def _options(inner: Any, tokenizer: Any, pad: int, max_new_tokens: int) -> Any:
    """transformers' generation configuration: the model's own tokens for beginning and end, and none of its other wishes."""
    from transformers import GenerationConfig

    own, config = inner.generation_config, inner.config.get_text_config()
    tokens = {
        name: getattr(own, name, None) if getattr(own, name, None) is not None else getattr(config, name, None)
        for name in ("bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_bos_token_id")
    }
    if tokens["eos_token_id"] is None:
        tokens["eos_token_id"] = tokenizer.eos_token_id
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        min_length=0,
        min_new_tokens=0,
        repetition_penalty=1.0,
        encoder_repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        encoder_no_repeat_ngram_size=0,
        pad_token_id=pad,
        **tokens,
    )
