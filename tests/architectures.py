"""Tiny models of many architectures with random weights, each in a directory with a tokenizer of its own kind."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.models.structure import Structure

TEXTS = [
    f"the {colour} {thing} number {n} is old"
    for n in range(30)
    for colour in ("red", "blue")
    for thing in ("pear", "port")
]

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
ENCODER = SIZES | {"max_position_embeddings": 128, "vocab_size": 320}
DECODER = SIZES | {"max_position_embeddings": 256, "vocab_size": 420, "num_key_value_heads": 2}
ENDS: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 1}
PADDED = ENDS | {"pad_token_id": 3}


def byte_pairs(*, pad: bool = True, begin: bool = True, end: bool = False) -> Any:
    """A byte-level BPE, as decoders have it; with `end`, as RoBERTa and encoder-decoders have it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<unk>", *(["<pad>"] if pad else []), "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if begin:
        single = "<s> $A </s>" if end else "<s> $A"
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    more = {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"} if end else {}
    more |= {"pad_token": "<pad>"} if pad else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", **more
    )


def word_pieces(*, segments: bool = True) -> Any:
    """WordPiece, as BERT has it, with or without token types."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ["input_ids", *(["token_type_ids"] if segments else []), "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=names, unk_token="[UNK]", pad_token="[PAD]",
        cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip


Tokenizer = Callable[[], Any]
NO_PAD: Tokenizer = lambda: byte_pairs(pad=False, begin=False)  # noqa: E731
WITHOUT_PAD: Tokenizer = lambda: byte_pairs(pad=False)  # noqa: E731
NO_BEGIN: Tokenizer = lambda: byte_pairs(begin=False)  # noqa: E731
ENDED: Tokenizer = lambda: byte_pairs(end=True)  # noqa: E731
NO_SEGMENTS: Tokenizer = lambda: word_pieces(segments=False)  # noqa: E731

_ROBERTA = SIZES | PADDED | {"max_position_embeddings": 130, "vocab_size": 420, "type_vocab_size": 1}

MODELS: dict[str, tuple[str, str, dict[str, Any], Tokenizer]] = {
    "albert": ("Albert", "ForMaskedLM", ENCODER | {"embedding_size": 16, "num_hidden_groups": 1}, word_pieces),
    "bart": ("Bart", "ForConditionalGeneration", PADDED | {
        "vocab_size": 420, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 128,
        "decoder_start_token_id": 1, "forced_eos_token_id": 1}, ENDED),
    "bert": ("Bert", "ForMaskedLM", ENCODER, word_pieces),
    "bloom": ("Bloom", "ForCausalLM", PADDED | {"vocab_size": 420, "hidden_size": 32, "n_layer": 2, "n_head": 4}, byte_pairs),
    "deberta-v2": ("DebertaV2", "ForMaskedLM", ENCODER | {
        "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 32, "share_att_key": True,
        "norm_rel_ebd": "layer_norm", "position_biased_input": False, "type_vocab_size": 0}, word_pieces),
    "distilbert": ("DistilBert", "ForMaskedLM", {
        "vocab_size": 320, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 128}, NO_SEGMENTS),
    "electra": ("Electra", "ForPreTraining", ENCODER | {"embedding_size": 16}, word_pieces),
    "falcon": ("Falcon", "ForCausalLM", ENDS | {
        "vocab_size": 420, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "multi_query": True,
        "new_decoder_architecture": False}, NO_PAD),
    "gemma": ("Gemma", "ForCausalLM", DECODER | PADDED | {"num_key_value_heads": 1, "head_dim": 16}, byte_pairs),
    "gemma2": ("Gemma2", "ForCausalLM", DECODER | PADDED | {"head_dim": 16, "sliding_window": 32}, byte_pairs),
    "gemma3": ("Gemma3", "ForCausalLM", DECODER | PADDED | {"head_dim": 16, "sliding_window": 32}, byte_pairs),
    "gpt2": ("GPT2", "LMHeadModel", ENDS | {"vocab_size": 420, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}, NO_PAD),
    "gpt_neo": ("GPTNeo", "ForCausalLM", ENDS | {
        "vocab_size": 420, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
        "max_position_embeddings": 256}, NO_PAD),
    "gpt_neox": ("GPTNeoX", "ForCausalLM", SIZES | ENDS | {"vocab_size": 420, "max_position_embeddings": 256}, NO_PAD),
    "llama": ("Llama", "ForCausalLM", DECODER | ENDS, WITHOUT_PAD),
    "mamba": ("Mamba", "ForCausalLM", PADDED | {
        "vocab_size": 420, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2}, byte_pairs),
    "mistral": ("Mistral", "ForCausalLM", DECODER | ENDS | {"sliding_window": 32}, WITHOUT_PAD),
    "mixtral": ("Mixtral", "ForCausalLM", DECODER | ENDS | {"num_local_experts": 4, "num_experts_per_tok": 2}, WITHOUT_PAD),
    "modernbert": ("ModernBert", "ForMaskedLM", ENCODER | {
        "pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}, NO_SEGMENTS),
    "mpnet": ("MPNet", "ForMaskedLM", ENCODER | {"max_position_embeddings": 130, "pad_token_id": 0}, NO_SEGMENTS),
    "mpt": ("Mpt", "ForCausalLM", {
        "vocab_size": 420, "d_model": 32, "n_layers": 2, "n_heads": 4, "expansion_ratio": 2, "max_seq_len": 256}, NO_PAD),
    "olmo2": ("Olmo2", "ForCausalLM", DECODER | PADDED, byte_pairs),
    "opt": ("OPT", "ForCausalLM", PADDED | {
        "vocab_size": 420, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64,
        "word_embed_proj_dim": 32, "max_position_embeddings": 256}, byte_pairs),
    "phi": ("Phi", "ForCausalLM", DECODER | ENDS | {"num_key_value_heads": 4}, NO_PAD),
    "phi3": ("Phi3", "ForCausalLM", DECODER | PADDED, byte_pairs),
    "qwen2": ("Qwen2", "ForCausalLM", DECODER | ENDS | {"tie_word_embeddings": True}, NO_BEGIN),
    "qwen3": ("Qwen3", "ForCausalLM", DECODER | ENDS | {"tie_word_embeddings": True, "head_dim": 16}, NO_BEGIN),
    "qwen3_moe": ("Qwen3Moe", "ForCausalLM", DECODER | ENDS | {
        "head_dim": 8, "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}, NO_BEGIN),
    "roberta": ("Roberta", "ForMaskedLM", _ROBERTA, ENDED),
    "smollm3": ("SmolLM3", "ForCausalLM", DECODER | PADDED, byte_pairs),
    "stablelm": ("StableLm", "ForCausalLM", DECODER | ENDS, NO_PAD),
    "t5": ("T5", "ForConditionalGeneration", {
        "vocab_size": 420, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4,
        "decoder_start_token_id": 3, "pad_token_id": 3, "eos_token_id": 1}, ENDED),
    "vit": ("ViT", "ForImageClassification", SIZES | {"image_size": 32, "patch_size": 8}, word_pieces),
    "xlm-roberta": ("XLMRoberta", "ForMaskedLM", _ROBERTA, ENDED),
}  # fmt: skip
"""By transformers' model type: the beginning and the end of the class's name, what differs from its defaults, and the
kind of tokenizer."""

_CONFIGS = {"Gemma3": "Gemma3TextConfig"}


@functools.cache
def structure(name: str, auto_class: str = "AutoModelForSequenceClassification", **config: Any) -> Structure:
    """What planning knows of the model called `name` of these sizes; `config` changes them."""
    import torch
    import transformers

    from bench.models import examine

    stem, _, sizes, _ = MODELS[name]
    made = getattr(transformers, _CONFIGS.get(stem, f"{stem}Config"))(**(sizes | config))
    with torch.device("meta"):
        return examine.structure(getattr(transformers, auto_class).from_config(made))


def make(name: str, folder: Path, **config: Any) -> Path:
    """Save the model called `name` and its tokenizer in a folder of its own below `folder`; `config` changes its sizes."""
    import torch
    import transformers

    stem, kind, sizes, tokenizer = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = getattr(transformers, _CONFIGS.get(stem, f"{stem}Config"))(**(sizes | config))
        getattr(transformers, f"{stem}{kind}")(made).save_pretrained(folder / name)
    tokenizer().save_pretrained(folder / name)
    return folder / name
