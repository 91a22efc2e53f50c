"""Prefix tuning."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Gt, Le

from bench.plan.context import PlanContext
from bench.recipe.declarations import Broken, Width
from bench.recipe.method import Trainer
from bench.stage.evidence import Claim
from bench.tasks.registry import kinds
from methods import _added, _peft
from methods._models import own_rows

if TYPE_CHECKING:
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training

_CACHE = "past_key_values"
"""The argument by which PEFT 0.21 gives a model its keys and values."""


@dataclass(frozen=True)
class Prefix(Trainer):
    """Train `n` keys and values of each block that every token attends to, as if `n` tokens stood before the text.

    Their values start at random as PEFT has them, without the network that the paper trains them through. Virtual
    tokens take positions, but count in no throughput. The rate is that of `head`, for short budgets, and is not tuned.
    Built on PEFT's ``PrefixTuningConfig``:
    https://huggingface.co/docs/peft/package_reference/prefix_tuning
    """

    name = "prefix"
    paper = "https://arxiv.org/abs/2101.00190"
    example = "prefix(20)"
    needs = ("peft",)
    adds = frozenset({"adapter"})
    traits = frozenset({"key_value_cache"})
    refuses = _peft.REFUSES
    breaks_with = (
        Broken(
            versions=("transformers>=5.24", "peft<=0.21.2"),
            tasks=frozenset(name for name, kind in kinds().items() if kind.peft_task_type != "CAUSAL_LM"),
            why=f"PEFT looks for the argument `{_CACHE}` of such a model's forward pass, which transformers renamed",
            mend='pip install "transformers<5.24", or use lora',
        ),
    )

    n: Width
    lr: Annotated[float, Gt(0)] = 1e-2
    share: Annotated[float, Gt(0), Le(1)] = 1.0

    @property
    def virtual_tokens(self) -> int:
        """All of them."""
        return self.n

    def problems(self, context: PlanContext) -> Iterator[str]:
        """The model must be one that can be given keys and values."""
        yield from _peft.without_prompts(context)
        structure = context.structure
        if "uneven" in context.facts and not context.config.get("head_dim"):
            yield "PEFT takes the heads' width from the configuration, which cannot tell it after such pruning; use lora"
        heads = context.config.get("num_key_value_heads") or context.config.get("num_attention_heads")
        if structure.encoder_decoder:
            yield f"a {context.model} model has an encoder and a decoder, and prefixes are put on one list of blocks; use lora"
        elif structure.stacks and not structure.cache:
            yield f"the attention of a {context.model} model takes no keys and values from outside; use lora or adapter"
        elif structure.cache_heads not in (None, heads):
            yield (
                f"PEFT makes keys and values for {heads} heads, and the attention of this {context.model} model keeps those of "
                f"{structure.cache_heads}; use lora or adapter"
            )
        elif structure.repeats:
            yield f"a {context.model} model calls the same block again and again, and prefixes are each block's own; use lora"
        yield from own_rows(context)

    def on_model(self, training: Training) -> None:
        """Put the prefixes on."""
        from bench.models import signature
        from bench.models.architecture import unwrapped

        _peft.attach(
            training, _peft.config(training, "PrefixTuningConfig", num_virtual_tokens=self.n, **_peft.sizes(training))
        )
        name = signature.cache_name(training.model)
        if name and name != _CACHE:
            unwrapped(training.model).register_forward_pre_hook(functools.partial(_rename, name), with_kwargs=True)

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """The base is bit-identical, the prefixes have n·2·width weights a block, and each block attends to its own."""
        from bench.models.architecture import unwrapped

        yield from _added.claims(before, work, "prompt_encoder", every=True)
        table = _peft.virtual_tokens(work.model)
        count = 0 if table is None else table.numel()
        config = unwrapped(work.model).config
        blocks, heads = config.num_hidden_layers, config.num_attention_heads
        # Where groups of heads share a key, it is narrower than what asks.
        width = getattr(config, "num_key_value_heads", heads) * (
            getattr(config, "head_dim", 0) or config.hidden_size // heads
        )
        formula = blocks * self.n * 2 * width
        yield Claim("the prefixes have n·2·width weights a block", count == formula, f"{count:,} against {formula:,}")
        yield _peft.told(work)
        reached = 0
        if table is not None and count == formula:
            gradient = _peft.probe_gradient(work, table).view(self.n, blocks, 2, -1)
            reached = int(gradient.any(-1).any(0).sum())
        yield Claim(
            "each block's keys and values depend on its prefix",
            reached == 2 * blocks,
            f"a gradient reaches {reached} of {2 * blocks}",
        )
        import torch

        began = work.began.get("prompt_encoder.default.embedding.weight")
        drawn = isinstance(began, torch.Tensor) and len(set(began.tolist())) == self.n and bool(began.all())
        yield Claim("the prefixes began with random numbers, each with its own", drawn, f"{self.n} prefixes")


def _rename(name: str, model: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Before a forward pass: PEFT's keys and values by the `name` that the model takes them by, since transformers 5.24."""
    return args, {name if key == _CACHE else key: value for key, value in given.items()}
