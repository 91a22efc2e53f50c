"""Small files of the forms of other tools."""

import json

import pytest

PEFT = {
    "run_info": {
        "created_at": "2026-07-15T05:41:18+00:00",
        "total_time": 1153.5,
        "experiment_name": "lora/llama-rank32",
        "train_config": {"model_id": "meta-llama/Llama-3.2-3B", "seed": 0},
        "peft_config": {"peft_type": "LORA"},
    },
    "train_info": {
        "accelerator_memory_max": 22_000_000_000,
        "train_time": 941.5,
        "file_size": 36_715_216,
        "num_trainable_params": 9_175_040,
        "num_total_params": 3_221_924_864,
        "status": "success",
        "metrics": [
            {"step": 250, "valid accuracy": 0.32, "train loss": 0.98},
            {"step": 5000, "test accuracy": 0.478, "train loss": 0.607, "train samples": 20000, "forgetting": 0.05},
        ],
    },
    "meta_info": {
        "dataset_info": {"metamath": {"sha": "aa4f"}, "gsm8k": {"sha": None}},
        "package_info": {"peft-version": "0.19.2"},
        "system_info": {"accelerator": "NVIDIA L40S"},
    },
}

LM_EVAL = {
    "results": {
        "hellaswag": {"alias": "hellaswag", "acc,none": 0.42, "acc_stderr,none": 0.005, "acc_norm,none": 0.55, "sample_len": 100},
        "gsm8k": {"alias": "gsm8k", "exact_match,strict-match": 0.1, "exact_match_stderr,strict-match": "N/A"},
        "wikitext": {"word_perplexity,none": 21.5},
    },
    "n-shot": {"hellaswag": 0, "gsm8k": 5},
    "config": {"model": "hf", "model_args": "pretrained=EleutherAI/pythia-14m,dtype=float32", "device": "cuda:0"},
    "date": 1_784_093_478.0,
    "lm_eval_version": "0.4.13",
}  # fmt: skip

LATENCY = {
    "unit": "s", "values": [0.01, 0.03], "count": 2, "total": 0.04, "mean": 0.02, "p50": 0.02, "p90": 0.028, "p95": 0.029, "p99": 0.0298,
    "stdev": 0.01, "stdev_": 50.0,
}  # fmt: skip
REPORT = {
    "load_model": {
        "memory": {"unit": "MB", "max_ram": 900.5, "max_allocated": None},
        "latency": LATENCY,
        "throughput": None,
    },
    "forward": {
        "memory": None,
        "latency": LATENCY,
        "throughput": {"unit": "samples/s", "value": 100.0},
        "energy": {"unit": "kWh", "cpu": 1e-6, "ram": 1e-7, "gpu": 0.0, "total": 1.1e-6},
        "efficiency": {"unit": "samples/kWh", "value": 1.8e6},
    },
}
CONFIG = {
    "name": "pytorch_bert",
    "backend": {"name": "pytorch", "model": "bert-base-uncased", "task": "fill-mask"},
    "environment": {"cpu": " Xeon", "gpu": ["NVIDIA A100", "NVIDIA A100"], "optimum_benchmark_version": "0.6.0"},
}


@pytest.fixture
def put(tmp_path):
    def write(found, name="theirs.json"):
        (tmp_path / name).write_text(found if isinstance(found, str) else json.dumps(found))
        return tmp_path / name

    return write
