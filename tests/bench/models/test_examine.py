"""What is found of a model before a weight is read: damaged and awkward folders, heads, padding, positions."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.models import structure
from bench.models.architecture import new_parameters
from bench.models.base import ModelError
from bench.models.registry import open_model
from bench.models.structure import Structure
from tests import architectures

LABELS = {0: "fruit", 1: "metal", 2: "river"}
CLASSIFIER = "AutoModelForSequenceClassification"
OPTIONS = {
    "num_labels": 3,
    "id2label": LABELS,
    "label2id": {label: number for number, label in LABELS.items()},
    "problem_type": "single_label_classification",
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return architectures.make("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return architectures.make("llama", tmp_path_factory.mktemp("llama"))


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to / folder.name)
    return to / folder.name


def configured(folder: Path, to: Path, **values: object) -> Path:
    """A copy with another configuration; None takes a key out."""
    made = copied(folder, to)
    config = json.loads((made / "config.json").read_text()) | values
    (made / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return made


def renamed(folder: Path, to: Path, rename) -> Path:
    """A copy whose weights have other names; None takes a weight out."""
    made = copied(folder, to)
    weights = {rename(name): weight for name, weight in load_file(made / "model.safetensors").items()}
    weights.pop(None, None)
    save_file(weights, made / "model.safetensors", {"format": "pt"})
    return made


def found(folder: Path, auto_class: str = CLASSIFIER, options=OPTIONS) -> Structure:
    return structure.of(open_model(str(folder), folder), str(folder), folder, auto_class, options)


def load(folder: Path, auto_class: str = CLASSIFIER, options=OPTIONS):
    return open_model(str(folder), folder).load(auto_class, options)


# -- weights that would not be read


@pytest.mark.parametrize(
    ("rename", "said"),
    [
        (lambda name: f"_orig_mod.{name}", "take the prefix `_orig_mod.` off"),
        (lambda name: f"module.{name}", "take the prefix `module.` off"),
        (lambda name: name.replace("attention.self.query", "attention.query"), "the names differ"),
        (
            lambda name: None if "layer.1.output.dense.weight" in name else name,
            "bert.encoder.layer.1.output.dense.weight",
        ),
        (lambda name: None if "word_embeddings" in name else name, "bert.embeddings.word_embeddings.weight"),
        (lambda name: None if "LayerNorm" in name else name, "LayerNorm"),
    ],
)
def test_weights_that_are_not_the_models_are_refused_by_name_and_mend(bert, tmp_path, rename, said):
    folder = renamed(bert, tmp_path, rename)
    (problem,) = found(folder).problems
    assert said in problem
    assert str(folder) in problem
    with pytest.raises(ModelError, match="weights"):
        load(folder)


def test_a_file_without_weights(bert, tmp_path):
    folder = copied(bert, tmp_path)
    save_file({}, folder / "model.safetensors", {"format": "pt"})
    (problem,) = found(folder).problems
    assert "the file is empty, or config.json is of another architecture" in problem


@pytest.mark.parametrize("layers", [1, 4])
def test_another_number_of_layers_than_in_the_file(llama, tmp_path, layers):
    (problem,) = found(configured(llama, tmp_path, num_hidden_layers=layers, layer_types=None)).problems
    assert f"config.json counts {layers} layers, and the file has another number" in problem


def test_another_architecture_than_in_the_file(bert, tmp_path):
    (problem,) = found(configured(bert, tmp_path, model_type="roberta", architectures=["RobertaForMaskedLM"])).problems
    assert "config.json is of another architecture" in problem


def test_other_sizes_than_in_the_file_name_the_folder(llama, tmp_path):
    folder = configured(llama, tmp_path, intermediate_size=96)
    (problem,) = found(folder).problems
    assert "6 weights have other shapes than config.json says" in problem
    assert str(folder) in problem


def test_a_language_models_missing_head_is_refused(llama, tmp_path):
    folder = renamed(llama, tmp_path, lambda name: None if name == "lm_head.weight" else name)
    (problem,) = found(folder, "AutoModelForCausalLM", {}).problems
    assert "lm_head.weight" in problem
    assert not found(folder).problems  # a classifier does not need it


@pytest.mark.parametrize("name", architectures.MODELS)
def test_every_architecture_as_it_is_saved_is_read_whole(name, tmp_path):
    problems = found(architectures.make(name, tmp_path)).problems
    if name in ("mamba", "vit"):
        assert f"transformers has no {CLASSIFIER} for a {name} model" in problems[0]
    else:
        assert not problems


def test_weights_that_are_no_numbers_are_refused_when_they_are_read(bert, tmp_path):
    folder = copied(bert, tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["bert.encoder.layer.0.output.dense.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights hold numbers that are not finite, as bert\.encoder\.layer\.0"):
        load(folder)


# -- heads


def with_head(folder: Path, to: Path, names: list[str], **options: object) -> Path:
    """A copy with a classifier for these labels, whose weights are drawn by another seed."""
    import transformers

    made = copied(folder, to)
    torch.manual_seed(7)
    labels = dict(enumerate(names))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=len(names), id2label=labels, label2id={v: k for k, v in labels.items()}, **options
    )
    model.classifier.bias.data = torch.arange(len(names)) / 10
    model.save_pretrained(made)
    return made


def test_a_trained_head_with_the_same_labels_is_kept_by_name(bert, tmp_path):
    import transformers

    folder = with_head(bert, tmp_path, ["river", "Fruit", "metal"])
    known = found(folder)
    assert (known.head, known.order, known.new) == ("kept", (1, 2, 0), ())
    ours, tokenizer = load(folder)
    own = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    batch = tokenizer(["the red pear", "a port"], padding=True, return_tensors="pt")
    theirs = [own.config.id2label[int(row)].lower() for row in own.eval()(**batch).logits.argmax(-1)]
    assert [LABELS[int(row)] for row in ours.eval()(**batch).logits.argmax(-1)] == theirs
    assert torch.equal(ours(**batch).logits[:, [2, 0, 1]], own(**batch).logits)


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (["a", "b", "c"], {}),
        (["fruit", "metal", "river", "sea", "sky"], {}),
        (["only"], {"problem_type": "regression"}),
    ],
)
def test_a_head_with_other_labels_is_made_new_and_said(bert, tmp_path, names, options):
    folder = with_head(bert, tmp_path, names, **options)
    known = found(folder)
    assert known.head == "new"
    assert {"classifier.weight", "classifier.bias"} <= set(known.new)
    assert "other labels" in known.notes[0]
    model, _ = load(folder)
    assert model.classifier.weight.shape == (3, 32)
    assert not model.classifier.bias.any()  # the file's were not zero
    kept = load_file(folder / "model.safetensors")["classifier.weight"]
    assert kept.shape != model.classifier.weight.shape or not torch.equal(kept, model.classifier.weight)


def test_a_new_head_is_drawn_by_the_seed(bert, tmp_path):
    folder = with_head(bert, tmp_path, ["a", "b", "c"])
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        heads.append(load(folder)[0].classifier.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_what_no_file_holds_is_known_by_name(bert):
    names = {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"}
    assert set(found(bert).new) == names
    model, _ = load(bert)
    assert set(new_parameters(model)) == names


# -- the rest of the folder


def test_code_of_its_own_is_not_run(bert, tmp_path):
    folder = configured(
        bert, tmp_path, model_type="mine", auto_map={"AutoConfig": "mine.Config", CLASSIFIER: "mine.Model"}
    )
    (folder / "mine.py").write_text("raise SystemExit('it ran')")
    (problem,) = found(folder).problems
    assert "needs code of its own (`auto_map` in config.json), which is not run" in problem


def test_quantized_already(llama, tmp_path):
    folder = configured(llama, tmp_path, quantization_config={"quant_method": "gptq", "bits": 4})
    assert "quantized already, by gptq" in found(folder).problems[0]


def test_tokens_beyond_the_embeddings(bert, tmp_path):
    import transformers

    folder = copied(bert, tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"fruit{number}" for number in range(320)])
    tokenizer.save_pretrained(folder)
    (problem,) = found(folder).problems
    assert "from number 320 on" in problem
    assert "resize_token_embeddings" in problem


def test_a_padding_token_that_has_no_embedding_is_replaced_and_said(llama, tmp_path):
    import transformers

    folder = copied(llama, tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    assert "no embedding for the padding token `[PAD]`: texts are padded with `</s>`" in found(folder).notes[0]
    loaded, ours = load(folder)
    assert ours.pad_token == "</s>"
    assert loaded.config.pad_token_id == ours.pad_token_id == 1


def test_no_padding_token_at_all(bert, tmp_path):
    import transformers

    folder = architectures.make("gpt2", tmp_path)
    assert "no padding token: texts are padded with `</s>`" in found(folder).notes[0]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for name in ("eos_token", "bos_token", "unk_token"):
        setattr(tokenizer, name, None)
    tokenizer.save_pretrained(folder)
    assert "no padding token, nor one to take for it" in found(folder).problems[0]


@pytest.mark.parametrize(
    ("name", "positions"),
    [
        ("bert", 128),
        ("roberta", 126),
        ("mpnet", 128),
        ("bart", 128),
        ("opt", 256),
        ("gpt2", 256),
        ("mpt", 256),
        ("t5", None),
    ],
)
def test_positions_that_a_pass_can_have(name, positions, tmp_path):
    folder = architectures.make(name, tmp_path)
    known = found(folder)
    assert known.positions == positions
    if positions is None:
        return
    model, tokenizer = load(folder)
    model(input_ids=_text(tokenizer, positions))
    if name in ("bert", "roberta", "mpnet", "gpt2"):  # learned ones end where they end
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=_text(tokenizer, positions + 1))


def _text(tokenizer, length: int) -> torch.Tensor:
    """So many tokens, none of which is padding for any model; the last ends the text."""
    ids = torch.full((1, length), 7)
    ids[0, -1] = tokenizer.eos_token_id or 7
    return ids


def test_it_survives_being_written_down(bert):
    known = found(bert)
    assert Structure.parse(known.spell()) == known


def test_a_process_of_its_own_finds_the_same(bert, tmp_path):
    job = {"model": str(bert), "suite_folder": str(tmp_path), "auto_class": CLASSIFIER, "options": OPTIONS}
    job["allow_remote_code"] = False
    assert structure._apart(job) == found(bert)
    missing = structure._apart({**job, "model": str(tmp_path / "nothing")})
    assert "could not build it" in missing.problems[0]
