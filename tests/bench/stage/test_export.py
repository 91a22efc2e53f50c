"""Every family's model in a folder: loaded in a fresh process with nothing of ours, it answers as the checkpoint does."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from bench.execute.worker import attempt
from bench.models.registry import open_model
from bench.stage import export
from bench.stage.job import Export
from bench.tasks.kinds.token_classification import TokenTable
from bench.testing import jobs

RUNTIMES = {"onnx": "", "openvino": ""}


@pytest.fixture(scope="session")
def wide(tiny_bert, tiny_llama, tmp_path_factory):
    """The two models with rows of whole blocks of 64 weights, as bitsandbytes' kernel for AVX512_BF16 needs them."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    found = {}
    for name, source, auto in (("bert", tiny_bert, AutoModel), ("llama", tiny_llama, AutoModelForCausalLM)):
        found[name] = tmp_path_factory.mktemp("wide") / name
        shutil.copytree(source, found[name])
        config = AutoConfig.from_pretrained(source)
        config.update({"hidden_size": 64, "intermediate_size": 128, **({"head_dim": 16} if name == "llama" else {})})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            auto.from_config(config).save_pretrained(found[name])
    return found


def tagged(folder):
    rows = [{"tokens": ["apple", "of", "rhine"], "tags": ["B-FRUIT", "O", "B-RIVER"]}] * 2
    file = folder / "tagged.jsonl"
    lines = [
        {**row, "tokens": [*row["tokens"], str(n)], "tags": [*row["tags"], "O"]} for n in range(30) for row in rows
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    return TokenTable(kind="token_classification", data=str(file))


@pytest.fixture
def exported(tmp_path):
    """Run a recipe and export what it leaves: how that ended, why, what was measured, and the folder."""

    def exported(text, model, format="", refused=RUNTIMES, **keys):
        keys.setdefault("measure", {"latency": [], "size": False, "flops": False})
        status, reason, _ = jobs.run(text, model, tmp_path, **dict(keys))
        assert status == "ok", reason
        folder = tmp_path / "exported"
        folder.mkdir()
        job = replace(jobs.job(text, model, tmp_path, **keys), what="export", export=Export(folder, format, refused))
        status, reason, measured = attempt(job, jobs.quiet)
        return status, reason, measured.get("export"), folder

    return exported


TRANSFORMERS = ["full"]
SLOW_TRANSFORMERS = [
    "lora(r=2) >> merge",
    "head",
    "bitfit",
    "full >> bnb_int8",
    "full >> magnitude(0.5)",
    "full >> prune_ffn(0.5)",
    "full >> drop_layers(1)",
    "full >> distill(layers=1)",
    "full >> half",
]
PEFT = ["lora(r=2)"]
SLOW_PEFT = [
    "ia3", "prefix(4)", "adalora", "prompt(4)", "bnb_int8 >> lora(r=2)", 'lora(r=2, variant="dora")',
    'lora(r=2, variant="pissa")', "full >> lora(r=2)",
]  # fmt: skip


def slow(texts):
    return [pytest.param(text, marks=pytest.mark.slow) for text in texts]


@pytest.mark.parametrize("text", [*TRANSFORMERS, *slow(SLOW_TRANSFORMERS)])
def test_what_transformers_loads(text, tiny_bert, exported):
    status, reason, found, folder = exported(text, tiny_bert)
    assert (status, found and found["format"]) == ("ok", "transformers"), reason
    assert found["proof"] == {"items": 4, "off": 0.0, "allowed": export.ALLOWED, "agreeing": 1.0}
    assert (folder / "model.safetensors").is_file()
    assert json.loads((folder / "config.json").read_text())["id2label"] == {"0": "fruit", "1": "metal", "2": "river"}


@pytest.mark.parametrize("text", [*PEFT, *slow(SLOW_PEFT)])
def test_what_peft_loads_has_its_base_model_beside_it(text, tiny_bert, exported):
    status, reason, found, folder = exported(text, tiny_bert)
    assert (status, found and found["format"]) == ("ok", "peft"), reason
    assert found["proof"] == {"items": 4, "off": 0.0, "allowed": export.ALLOWED, "agreeing": 1.0}
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"
    assert {file.name for file in (folder / "base").iterdir()} >= {"config.json", "model.safetensors"}
    assert str(tiny_bert) not in "".join(file.read_text() for file in folder.rglob("*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("text", ["full >> nf4", "full >> fp4", "nf4 >> lora(r=2)", "full >> nf4 >> lora(r=2)"])
def test_four_bits_answer_within_the_precision_of_the_kernel(text, wide, exported):
    status, reason, found, _ = exported(text, wide["bert"])
    assert status == "ok", reason
    assert found["format"] == ("peft" if "lora" in text else "transformers")
    assert found["proof"]["off"] <= found["proof"]["allowed"] == export.ALLOWED_4BIT
    assert found["proof"]["agreeing"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("text", ["full", "head", "lora(r=2)"])
def test_token_classification(text, tiny_bert, tmp_path, exported):
    status, reason, found, _ = exported(text, tiny_bert, task=tagged(tmp_path))
    assert status == "ok", reason
    assert found["proof"]["off"] == 0
    assert "AutoModelForTokenClassification" in found["loading"]["load"]


@pytest.mark.parametrize(
    ("text", "serves"),
    [
        pytest.param("full", "vllm serve FOLDER", marks=pytest.mark.slow),
        ("lora(r=2)", "vllm serve FOLDER/base --enable-lora --max-lora-rank 8 --lora-modules NAME=FOLDER"),
        pytest.param("lora(r=2) >> merge", "vllm serve FOLDER", marks=pytest.mark.slow),
        pytest.param("prefix(4)", "", marks=pytest.mark.slow),
    ],
)
def test_decoders_and_what_serves_them(text, serves, tiny_llama, tmp_path, exported):
    status, reason, found, folder = exported(text, tiny_llama, task=jobs.prose(tmp_path))
    assert status == "ok", reason
    assert found["proof"]["off"] == 0
    assert found["vllm"] == serves
    (config,) = folder.rglob("config.json")
    assert json.loads(config.read_text())["use_cache"]


@pytest.mark.slow
def test_a_quantized_decoder_with_an_adapter(wide, tmp_path, exported):
    status, reason, found, _ = exported("nf4 >> lora(r=2)", wide["llama"], task=jobs.prose(tmp_path))
    assert status == "ok", reason
    assert found["proof"]["off"] <= export.ALLOWED_4BIT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "format"),
    [
        ("full", "onnx"),
        ("lora(r=2)", "onnx"),
        ("adapter", "onnx"),
        ("full >> low_rank(4)", "onnx"),
        ("full >> prune_heads(0.5)", "onnx"),
        ("full >> onnx", ""),
        ('full >> onnx("int8")', ""),
        ("full", "openvino"),
        ("full >> openvino", ""),
    ],
)
def test_runtimes_need_neither_torch_nor_transformers(text, format, tiny_bert, exported):
    pytest.importorskip("onnxruntime")
    if "openvino" in text + format:
        pytest.importorskip("openvino")
    status, reason, found, folder = exported(text, tiny_bert, format)
    assert status == "ok", reason
    assert found["format"] == (format or text.split(" >> ")[1].split("(")[0])
    assert found["converted"] is bool(format)
    assert not found["loading"]["torch"]
    assert found["proof"]["off"] <= found["proof"]["allowed"] == export.ALLOWED
    assert not list(folder.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("text", "format", "why"),
    [
        ("lora(r=2)", "transformers", "a PEFT adapter is on it; these can: peft, onnx"),
        ("full", "peft", "no PEFT adapter is on it; these can: transformers, onnx"),
        ("adapter", "", "it has layers that its configuration cannot tell; these can: onnx"),
        ("full >> low_rank(4)", "", "it has layers that its configuration cannot tell; these can: onnx"),
        ("full >> prune_heads(0.5)", "", "it has layers that its configuration cannot tell; these can: onnx"),
        ("full >> torch_int8_dynamic", "", "of its weights are held in a way of their own, as bert.encoder.layer.0"),
        ("full + ensemble(2)", "", "it is 2 models that answer together; these can: onnx"),
    ],
)
def test_a_format_that_cannot_hold_the_model_says_which_can(text, format, why, tiny_bert, exported):
    status, reason, _, folder = exported(text, tiny_bert, format, {"onnx": ""})
    assert status == "refused"
    assert reason.startswith(f"{format or 'transformers'} cannot hold this model: ")
    assert why in reason
    assert not list(folder.iterdir())


def test_where_no_format_can_all_reasons_are_said(tiny_bert, exported):
    _, reason, _, _ = exported("full >> torch_int8_dynamic", tiny_bert, "onnx", {"onnx": "it is quantized for torch"})
    assert reason.startswith(
        "onnx cannot hold this model: it is quantized for torch; nor can any other: transformers: "
    )
    assert reason.endswith("peft: no PEFT adapter is on it")


def test_from_a_runtimes_files_there_is_no_way_back(tiny_bert, exported):
    pytest.importorskip("onnxruntime")
    _, reason, _, _ = exported("full >> onnx", tiny_bert, "transformers")
    assert "it is in the files of onnx, from which there is no way back; these can: onnx" in reason


@pytest.mark.slow
def test_an_adapter_of_a_model_on_the_hub_names_it_with_its_commit(tiny_bert, tmp_path, exported, monkeypatch):
    from tests import hub

    cache = tmp_path / "hub"
    hub.cached(cache, "org/tiny", tiny_bert)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    status, reason, found, folder = exported("lora(r=2)", "org/tiny")
    assert status == "ok", reason
    assert found["hub"] == "org/tiny"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", hub.COMMIT)
    assert not (folder / "base").exists()


def test_what_answers_otherwise_is_told(tiny_bert, exported, monkeypatch):
    write = export._write

    def wrong(model, *others):
        import torch

        with torch.no_grad():
            model.classifier.bias += 1
        return write(model, *others)

    monkeypatch.setattr(export, "_write", wrong)
    status, reason, found, _ = exported("full", tiny_bert)
    assert (status, found) == ("failed", None)
    assert "the model answers otherwise: logits are off by" in reason


@pytest.mark.parametrize("ours", ["bench", *slow(["methods", "reports"])])
def test_lines_that_need_anything_of_ours_are_no_proof(ours, tiny_bert, exported, monkeypatch):
    write = export._write

    def needing(*given):
        loading = write(*given)
        return replace(loading, load=f"import {ours}\n{loading.load}")

    monkeypatch.setattr(export, "_write", needing)
    status, reason, _, _ = exported("full", tiny_bert)
    assert status == "failed"
    assert f"cannot load what was written: ImportError: {ours} is not to be imported here" in reason


def test_another_tokenizer_is_told(tiny_bert, exported, monkeypatch):
    from transformers import PreTrainedTokenizerBase

    save = PreTrainedTokenizerBase.save_pretrained

    def other(tokenizer, folder, *given, **named):
        save(tokenizer, folder, *given, **named)
        file = folder / "tokenizer.json"
        whole = json.loads(file.read_text())
        vocabulary = whole["model"]["vocab"]
        words = [word for word in vocabulary if not word.startswith("[")]
        vocabulary |= dict(zip(words, [vocabulary[word] for word in (*words[1:], words[0])], strict=True))
        file.write_text(json.dumps(whole))

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", other)
    status, reason, _, _ = exported("full", tiny_bert)
    assert status == "failed"
    assert "the tokenizer reads texts otherwise" in reason


@pytest.mark.slow
def test_a_folder_that_was_moved_loads_from_any_working_directory(tiny_bert, exported, tmp_path):
    _, reason, found, folder = exported("lora(r=2)", tiny_bert)
    moved = folder.rename(tmp_path / "moved")
    lines = (
        f"folder = {str(moved)!r}\n{found['loading']['load']}\n{found['reading']}\noutputs = {found['loading']['ask']}"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"{lines}\nprint(tuple(outputs.logits.shape))"],
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "(1, 3)", done.stderr + reason
    source = open_model(str(moved), tmp_path)  # as a suite names it
    assert source.problems() == []
    model, _ = source.load("AutoModelForSequenceClassification", {"num_labels": 3})
    assert not hasattr(model, "peft_config")
