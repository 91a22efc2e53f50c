"""A Llama of a million parameters, made here from the standard library's sources: a trained decoder without a hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from bench.machine import cache
from bench.models.sources.directory import quiet
from bench.models.sources.made import Made
from bench.recipe import recipe
from bench.suite.suite import Budget
from bench.tasks.sources.stdlib_code import StdlibCode

SPECIAL = ("<pad>", "<s>", "</s>")

CONFIG: Mapping[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 128,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 352,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""1,054,080 parameters."""

RECIPE = 'pretrain("clm", lr=1e-3) + schedule("cosine", warmup=0.05)'
BUDGET = Budget(steps=2000, batch_size=4, max_length=128)
THREADS = 1
"""Two took several times as long as one where other programs ran."""

_FORMAT = 1  # raised when the making changes otherwise than by what is above


class TinyLlama(Made):
    """A Llama with grouped-query attention, 5 layers, width 128 and 1.05 million parameters, and a byte-level BPE.

    Tokenizer and weights are made on this machine, from the training split of stdlib-code by the engine's own loop,
    and kept in the cache. What they are made of is their fingerprint, so it is known beforehand; two machines may
    differ in the last bits. Its pretraining has seen docstrings that stdlib-topics tests on, never their labels.
    """

    name = "tiny-llama"
    summary: ClassVar[str] = "a Llama of 1.05 million parameters, pretrained here once on the standard library's code"

    minutes = 3

    def __init__(self) -> None:
        self.code = StdlibCode()
        key = "" if self.code.problems() else self.fingerprint()[:32]
        self.path = cache.folder() / "tiny-llama" / key

    # -- planning, without torch -----------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """Say if the sources are missing, or if there is no place to keep the model."""
        return self.code.problems() or super().problems()

    def fingerprint(self) -> str:
        """A SHA-256 over all that it is made of.

        Raises:
            TaskError: sources are missing.
        """
        made_of = {
            "format": _FORMAT,
            "data": self.code.fingerprint(),
            "config": CONFIG,
            "recipe": recipe.parse(RECIPE).spell(defaults=True),
            "budget": BUDGET.model_dump(),
            "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers")},
        }
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()

    def model_type(self) -> str:
        """A Llama."""
        return "llama"

    def config(self) -> Mapping[str, Any]:
        """What ``config.json`` will have."""
        return CONFIG

    # -- in a process of its own -----------------------------------------------------------------------------

    def make_in(self, folder: Path, progress: Callable[[str, int, int], None]) -> None:
        """Train tokenizer and weights."""
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        from bench.machine import machine
        from bench.stage.loop import Training

        tokenizer = _tokenizer(self.code.texts("train"))
        (stage,) = recipe.parse(RECIPE).stages
        threads = torch.get_num_threads()
        torch.set_num_threads(THREADS)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                training = Training(
                    model=LlamaForCausalLM(LlamaConfig(**CONFIG, use_cache=False)),
                    tokenizer=tokenizer,
                    task=self.code,
                    stage=stage,
                    before=(),
                    budget=BUDGET,
                    machine=machine.look("cpu", THREADS),
                    seed=0,
                    progress=lambda what, done, of, seen=None: progress(f"make {self.name}", done, of),
                )
                training.prepare()
                training.run()
                training.finish()
        finally:
            torch.set_num_threads(threads)
        with quiet():
            training.model.save_pretrained(folder)  # type: ignore[operator]
            tokenizer.save_pretrained(folder)


def _tokenizer(texts: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    pad, begin, end = SPECIAL
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, CONFIG["bos_token_id"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=begin,
        eos_token=end,
        model_max_length=CONFIG["max_position_embeddings"],
    )
