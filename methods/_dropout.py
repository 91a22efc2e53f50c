"""Whether dropout makes two passes differ, which some methods live by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.plan.context import PlanContext

WITHOUT = frozenset({
    "albert", "apertus", "arcee", "bloom", "codegen", "cohere", "deepseek_v3", "eurobert", "exaone4", "falcon",
    "gemma", "gemma2", "gemma3", "gemma3_text", "glm", "gpt_neo", "gpt_neox", "gpt_oss", "gptj", "granite",
    "helium", "llama", "llama4_text", "ministral", "mistral", "mixtral", "modernbert", "modernbert-decoder", "mpt",
    "nemotron", "olmo", "olmo2", "olmo3", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3",
    "stablelm", "starcoder2",
})  # fmt: skip
"""Model types whose bodies have no dropout by transformers' defaults."""


_HEAD = ("classif", "summary", "qa_")
"""In the names of a configuration's dropouts that are in a head."""


def present(context: PlanContext, *, head: bool = True) -> bool:
    """Whether something drops out in training at `context`; without `head`, in the body."""
    for method in context.stage.modifiers:
        if method.name == "dropout":
            return bool(getattr(method, "p", 0))
    if getattr(context.stage.main, "dropout", 0):  # an adapter's own
        return True
    found = [
        value
        for name, value in context.config.items()
        if "drop" in name and isinstance(value, int | float) and (head or not any(part in name for part in _HEAD))
    ]
    return any(found) if found else context.model not in WITHOUT


def problems(context: PlanContext, *, head: bool = True) -> Iterator[str]:
    """Two passes through a model without dropout are one and the same."""
    if not present(context, head=head):
        yield (
            f"this {context.model} has no dropout, so two passes do not differ and nothing is to be learned from their "
            "difference; set some, as in `full + dropout(0.1)` or `lora(dropout=0.1)`"
        )
