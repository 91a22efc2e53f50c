"""What methods say of models that they do not know. No torch here."""

from __future__ import annotations

from collections.abc import Iterator

from bench.plan.context import PlanContext

_PARTS = {
    "blocks": "the transformer blocks",
    "stack": "the transformer blocks in their order",
    "attention": "the layers of queries, keys and values",
    "attention_outputs": "the linear layer that ends each attention",
    "feed_forward": "the linear layers of each feed-forward part",
    "feed_forward_outputs": "the linear layer that ends each feed-forward part",
    "row": "embeddings, blocks and a head that each take the hidden states of the one before alone",
    "fewer_heads": "attention that works with fewer heads",
    "fewer_channels": "the weights along the hidden states",
    "parts_of_blocks": "attention and feed-forward parts that work in parts",
}


def known(context: PlanContext, *parts: str) -> Iterator[str]:
    """That a part of the blocks is not known, by the name of the function that finds it.

    It is one of :mod:`bench.models.architecture` or :mod:`bench.models.passes`.
    """
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


def masked_items(context: PlanContext) -> Iterator[str]:
    """That items of training are packed, where the attention mask is needed that tells an item from padding."""
    if context.packing:
        yield "it looks at each item by its attention mask, and the task packs several items into a row; leave `packing` out"


def own_rows(context: PlanContext) -> Iterator[str]:
    """That items of training are packed, where tokens are put before each row: with these, transformers lets its items see each other."""
    if context.packing:
        yield "it puts tokens before each row, where the items of a packed row would see each other; leave the task's `packing` out"


def tokens(context: PlanContext) -> Iterator[str]:
    """That items are images, where a method works on the tokens of texts."""
    if context.task.reads_images:
        yield "it works on the tokens of texts, and the task has images; leave it out"
