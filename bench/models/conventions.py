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
