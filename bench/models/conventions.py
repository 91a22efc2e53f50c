"""The one table of what the modules of a model do not show: the names by which transformers' code tells it.

:mod:`bench.models.architecture` and :mod:`bench.models.examine` see all else in the modules themselves. A model that
calls something by a name that is not here is refused by the methods that need to know it, and works with all others; a
name that is added here opens it to them.
"""

from __future__ import annotations

ATTENTION = ("attention", "attn")
"""Parts of the names of modules that attend."""

HEAD_WIDTH = ("head_dim", "attention_head_size")
"""Attributes of an attention: the width of a head."""

HEADS = ("num_attention_heads", "num_heads", "n_heads")
"""Attributes of an attention: how many heads ask."""

HEADS_WIDTH = ("all_head_size",)
"""Attributes of an attention: the width of all heads that ask together."""

KEY_VALUE_HEADS = ("num_key_value_heads",)
"""Attributes of an attention: how many heads answer."""

GROUPS = ("num_key_value_groups",)
"""Attributes of an attention: how many heads that ask share one that answers."""

INNER_WIDTH = ("intermediate_size", "ffn_hidden_size", "ffn_dim", "hidden_dim", "d_ff", "n_inner")
"""Keys of a configuration: the width inside of the feed-forward layers."""

LAYERS = (
    "num_hidden_layers",
    "num_layers",
    "num_decoder_layers",
    "encoder_layers",
    "decoder_layers",
    "n_layer",
    "n_layers",
)
"""Keys of a configuration: how many blocks a stack has."""

WIDTHS = ("hidden_size", "d_model", "n_embd", "dim", "word_embed_proj_dim")
"""Keys of a configuration: the width of the hidden states, by the first of which that is there all others are scaled."""

INNER_WIDTHS = (*INNER_WIDTH, "encoder_ffn_dim", "decoder_ffn_dim", "moe_intermediate_size")
"""Keys of a configuration: all widths inside of feed-forward layers."""

ALL_HEADS = (*HEADS, "encoder_attention_heads", "decoder_attention_heads", "n_head")
"""Keys of a configuration: how many heads ask, in each stack."""

HIDDEN_WIDTH = ("hidden_size", "embedding_size")
"""Keys of a configuration: the width of the hidden states, and of the embeddings that become them."""

POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")
"""Keys of a configuration: how many tokens a pass may have."""

POOLER = "pool"
"""How the names of modules begin that make one vector of a text's."""

CACHES = ("cache", "past_key_values", "cache_params")
"""Arguments and outputs: the cache of keys and values, or of states, the newest name first."""

OLD_BUFFERS = (
    "inv_freq",
    "position_ids",
    "token_type_ids",
    "masked_bias",
    "attn.bias",
    "attention.bias",
    "num_batches_tracked",
)
"""Ends of the names of buffers that older versions of transformers saved, and that newer ones compute."""
