"""One contract for every registered method: it works, and when one of its hooks does nothing it ends ``invalid``."""

from bench.recipe import registry
from bench.testing import contract

# Each method, with a recipe in which it takes part. One that is not here fails the first test.
# Where a hook matters only in another recipe, that follows by the hook's name.
METHODS: dict[str, dict[str, str]] = {
    "accumulate": {"": "full + accumulate(2)"},
    "adalora": {"": "adalora(init_r=4, target_r=2)"},
    "adapter": {"": "adapter(8)"},
    "adversarial": {
        "": 'full + adversarial("fgm")',
        "pgd": 'full + adversarial("pgd", steps=2)',
        "freelb": 'full + adversarial("freelb", steps=2)',
    },
    "augment": {"": 'full + augment("eda")', "swap": 'full + augment("embedding_swap")'},
    "awq": {"": "awq(samples=16)"},
    "bitfit": {"": "bitfit"},
    "gradient_checkpointing": {"": "full + gradient_checkpointing"},
    "compile": {"": "full + compile"},
    "compressed_gradients": {
        "": 'full + data_parallel(2) + compressed_gradients("fp16")',
        "factors": 'full + data_parallel(2) + compressed_gradients("powersgd", rank=2)',
    },
    "compile_inference": {"": "compile_inference"},
    "contrastive": {"": 'full + contrastive("supcon")', "simcse": 'full + contrastive("simcse")'},
    "device_map": {},  # several GPUs; its own tests hold it to the contract on ones that are not there
    "data_parallel": {"": "full + data_parallel(2)", "wrap_loss": "full + data_parallel(2) + accumulate(2)"},
    "distill": {
        "": "full >> distill(layers=1)",
        "hidden": 'full >> distill(layers=1, match="hidden")',
        "attention": 'full >> distill(layers=1, match="attention")',
    },
    "drop_layers": {
        "": "drop_layers(1)",
        "every other": 'drop_layers(1, "every_other")',
        "similar": 'drop_layers(1, "similarity", samples=16)',
    },
    "dropout": {"": "full + dropout(0.3)"},
    "torch_int8_dynamic": {"": "full >> torch_int8_dynamic"},
    "early_stopping": {"": "full + early_stopping(patience=1, every=2)"},
    "ensemble": {"": "full + ensemble(2)"},
    "qat_int8": {"": "full + qat_int8"},
    "fp4": {"": "fp4"},
    "full": {"": "full"},
    "fully_sharded": {"": "full + fully_sharded(2)", "replicas": "full + data_parallel(2) + fully_sharded(2)"},
    "gptq": {"": "gptq(samples=16)"},
    "gradient_clip": {"": "full + gradient_clip(0.1)"},
    "gradual": {"": "full + gradual(magnitude(0.5))", "of rows": "full + gradual(wanda(0.25, samples=16), every=2)"},
    "half": {"": 'half("bf16")'},
    "head": {"": "head"},
    "ia3": {"": "ia3"},
    "int4": {"": "int4"},
    "torchao_int4_weight_only": {"": "torchao_int4_weight_only(group_size=32)"},
    "bnb_int8": {"": "bnb_int8"},
    "torchao_int8_dynamic": {"": "torchao_int8_dynamic"},
    "torchao_int8_weight_only": {"": "torchao_int8_weight_only"},
    "label_smoothing": {"": "full + label_smoothing(0.1)"},
    "lora": {"": "lora(r=2)"},
    "low_rank": {"": "low_rank(2)", "energy": "low_rank(energy=0.5)"},
    "magnitude": {
        "": "magnitude(0.5)",
        "on_model": "magnitude(0.5) >> full",
        "on_step": "magnitude(0.5) >> full",
        "retention_evidence": "magnitude(0.5) >> full",
    },
    "merge": {"": "lora(r=2) >> merge"},
    "mixed_precision": {
        "": 'full + mixed_precision("bf16")',
        "wrap_gradients": 'full + mixed_precision("fp16")',
        "wrap_update": 'full + mixed_precision("fp16")',
    },
    "neftune": {"": "full + neftune"},
    "nf4": {"": "nf4 >> lora(r=2)", "apply": "nf4"},
    "onnx": {"": "onnx", "8 bits": 'onnx("int8")'},
    "openvino": {"": "openvino", "8 bits": 'openvino("int8", samples=16)'},
    "optimizer": {
        "": 'full(lr=0.05) + optimizer("sgd")',
        "8 bits": 'full + optimizer("adamw_8bit", min_8bit_size=1)',
        "matrices": 'full + optimizer("muon")',
    },
    "peft": {"": 'peft("VERA", r=4, lr=0.03)'},
    "pipeline_parallel": {
        "": "full + pipeline_parallel(2, 2)",
        "both": 'lora(r=2) + data_parallel(2) + pipeline_parallel(2, 2, "gpipe")',
    },
    "prefix": {"": "prefix(3)"},
    "pretrain": {
        "": 'pretrain("mlm")',
        "anew": 'pretrain("mlm", weights="random") >> full',
        "pairs": 'pretrain("nsp")',
    },
    "prompt": {"": "prompt(3)"},
    "prune_ffn": {"": "prune_ffn(0.5)", "taylor": 'prune_ffn(0.5, "taylor")', "random": 'prune_ffn(0.5, "random")'},
    "prune_heads": {
        "": "prune_heads(0.5)",
        "taylor": 'prune_heads(0.5, "taylor")',
        "random": 'prune_heads(0.5, "random")',
    },
    "prune_hidden": {
        "": "prune_hidden(0.25)",
        "taylor": 'prune_hidden(0.5, "taylor")',
        "random": 'prune_hidden(0.25, "random")',
    },
    "rdrop": {"": "full + rdrop(0.5)"},
    "schedule": {"": 'full + schedule("linear", warmup=0.1)'},
    "sparse_2_4": {
        "": "sparse_2_4",
        "wanda": 'sparse_2_4("wanda", samples=16)',
        "sparsegpt": 'sparse_2_4("sparsegpt", samples=16)',
        "on_model": "sparse_2_4 >> full",
        "on_step": "sparse_2_4 >> full",
        "retention_evidence": "sparse_2_4 >> full",
    },
    "sparse_storage": {"": "magnitude(0.9) >> sparse_storage"},
    "sparsegpt": {
        "": "sparsegpt(0.5, samples=16)",
        "on_model": "sparsegpt(0.5, samples=16) >> full",
        "on_step": "sparsegpt(0.5, samples=16) >> full",
        "retention_evidence": "sparsegpt(0.5, samples=16) >> full",
    },
    "tensor_parallel": {"": "lora(r=2) + tensor_parallel(2)", "both": "full + data_parallel(2) + tensor_parallel(2)"},
    "top_layers": {"": "top_layers(1)"},
    "torchao_wanda": {
        "": "torchao_wanda(0.5, samples=16)",
        "on_model": "torchao_wanda(0.5, samples=16) >> full",
        "on_step": "torchao_wanda(0.5, samples=16) >> full",
        "retention_evidence": "torchao_wanda(0.5, samples=16) >> full",
    },
    "wanda": {
        "": "wanda(0.5, samples=16)",
        "on_model": "wanda(0.5, samples=16) >> full",
        "on_step": "wanda(0.5, samples=16) >> full",
        "retention_evidence": "wanda(0.5, samples=16) >> full",
    },
    "weight_decay": {"": "full + weight_decay(0.1)"},
}

SLOW = {"compile", "compile_inference", "onnx", "openvino"}
"""These take half a minute each, so they run with the slow tests alone, and not in random recipes."""


def test_every_method_is_under_the_contract():
    assert set(METHODS) == set(registry.methods())


TestContract = contract(METHODS, slow=SLOW)
