"""Texts as blocks of token ids, of which a batch of a language model is made."""

from __future__ import annotations

import hashlib
import itertools
import sys
from array import array
from collections.abc import Sequence
from typing import Any

import torch

from bench.machine import cache
from bench.tasks.base import IGNORED, Batch, first


class Blocks:
    """Texts as blocks of token ids; ``lengths`` counts each block's tokens, ``text_of`` says which text it is of.

    All ids lie end to end in one array: a batch is a single look-up, and a large split takes 4 bytes a token.
    ``tokens`` counts those that are predicted: all but the blocks' first.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str], max_length: int) -> None:
        self.tokenizer = tokenizer
        self._begin = first(tokenizer.bos_token_id, tokenizer.cls_token_id, tokenizer.eos_token_id, 0)
        self._pad = first(tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        ids, counts = _encode(tokenizer, texts)
        self.tokens = len(ids)
        self.lengths: list[int] = []
        self.text_of: list[int] = []
        for text, count in enumerate(counts):
            whole, rest = divmod(count, max_length - 1)
            self.lengths += [max_length] * whole + [rest + 1] * (rest > 0)
            self.text_of += [text] * (whole + (rest > 0))
        self._ids = torch.frombuffer(ids, dtype=torch.int32)
        self._lengths = torch.tensor(self.lengths)
        # Of the tokens of its text, a block has one less than its length.
        self._starts = (self._lengths - 1).cumsum(0) - (self._lengths - 1)

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, items: Sequence[int]) -> Batch:
        """These blocks, in this order."""
        chosen = torch.tensor(items)
        lengths = tuple(self.lengths[item] for item in items)
        column = torch.arange(max(lengths))
        real = column < self._lengths[chosen][:, None]
        # Where there is only padding, and at the beginning, any token is read and then written over.
        where = torch.where(real, self._starts[chosen][:, None] + column - 1, 0).clamp_(min=0)
        ids = self._ids[where].long()
        ids[:, 0] = self._begin
        return Batch(
            inputs={"input_ids": ids.masked_fill(~real, self._pad), "attention_mask": real.long()},
            labels=ids.masked_fill(~real, IGNORED),
            lengths=lengths,
            terms=tuple(length - 1 for length in lengths),
            items=tuple(items),
        )


def _encode(tokenizer: Any, texts: Sequence[str]) -> tuple[array[int], array[int]]:
    """The ids of all texts end to end, without special tokens, and how many each text has.

    Kept in :mod:`bench.machine.cache`: every stage needs them, and the standard library takes some three seconds.
    """
    name = _cache_name(tokenizer, texts)
    ids, counts = array("i"), array("i")
    if name is not None:
        try:
            kept = (cache.folder() / name).read_bytes()
            if kept[:16] == hashlib.blake2b(kept[16:], digest_size=16).digest():
                end = 16 + counts.itemsize * len(texts)
                counts.frombytes(kept[16:end])
                ids.frombytes(kept[end:])
                return ids, counts
        except OSError:
            pass  # there is none yet
    # Some at a time: the tokenizer needs much memory for each text it is at.
    for start in range(0, len(texts), 64):
        part = list(texts[start : start + 64])
        found = tokenizer(part, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        counts.extend(map(len, found))
        ids.extend(itertools.chain.from_iterable(found))
    if name is not None:
        content = counts.tobytes() + ids.tobytes()
        cache.write(name, hashlib.blake2b(content, digest_size=16).digest() + content)
    return ids, counts


def _cache_name(tokenizer: Any, texts: Sequence[str]) -> str | None:
    """Named by all that the ids come from; None for a tokenizer in Python, which does not say what it does."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    from importlib.metadata import version

    digest = hashlib.blake2b(f"{version('tokenizers')} {sys.byteorder} {backend.to_str()}".encode(), digest_size=16)
    for text in texts:
        digest.update(f"{len(text)} ".encode() + text.encode("utf-8"))
    return f"tokens/{digest.hexdigest()}"
