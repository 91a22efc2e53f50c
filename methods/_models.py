"""What methods say of models that they do not know. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.plan.context import PlanContext


def unknown(context: PlanContext, models: Sequence[str]) -> Iterator[str]:
    """That the model is of none of the types `models`, which a method is tested on."""
    if context.model not in models:
        yield f"a model of type {context.model} may be built otherwise than those that it knows: {', '.join(models)}"


_PARTS = {
    "blocks": "the transformer blocks",
    "stack": "the transformer blocks in their order",
    "attention": "the layers of queries, keys and values",
    "attention_outputs": "the linear layer that ends each attention",
    "feed_forward_outputs": "the linear layer that ends each feed-forward part",
}


def known(context: PlanContext, *parts: str) -> Iterator[str]:
    """That a part of the blocks is not known, by the name of the function of :mod:`bench.models.architecture` that finds it."""
    for part in parts:
        if why := context.structure.untold.get(part):
            yield f"it needs to find {_PARTS[part]}, and {why}; use another method, such as lora or full"


def linear_blocks(context: PlanContext) -> Iterator[str]:
    """That the blocks hold weight matrices outside of linear layers, which would be left out."""
    yield from known(context, "blocks")
    if others := context.structure.not_linear:
        yield (
            f"it works on torch.nn.Linear layers, and the blocks of this {context.model} model hold weights in "
            f"{' and '.join(others)}, which would be left as they are; use half, or a model with linear layers"
        )


def one_stack(context: PlanContext) -> Iterator[str]:
    """That the blocks are not one list of blocks that are each called once, in order."""
    structure = context.structure
    if structure.encoder_decoder:
        yield f"a {context.model} model has blocks in an encoder and in a decoder, and this works on one list of blocks"
    elif structure.repeats:
        yield f"a {context.model} model calls the same block again and again, and this works on blocks that are each their own"
    else:
        yield from known(context, "stack")
