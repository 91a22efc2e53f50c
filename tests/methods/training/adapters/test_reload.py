"""What is weighed as shipped can be loaded: it alone, on the base that it names, gives the trained model's outputs."""

import json

import pytest
import torch
import transformers

from bench.measure.size import on_disk, whole
from bench.testing import jobs
from methods import _peft
from methods.training.adapters._shared import bottleneck
from tests.trainings import prepared

PEFT = [
    "lora(r=2)",
    'lora(r=2, variant="rslora")',
    'lora(r=2, variant="dora")',
    'lora(r=2, variant="pissa")',
    "adalora(init_r=4, target_r=2)",
    "ia3",
    "prefix(3)",
    "prompt(3)",
    'peft("VERA", r=4, lr=0.03)',
]
ADAPTER = ["adapter(4)", 'adapter(4, "pfeiffer")']
WHOLE = ["full", "head", "top_layers(1)", "bitfit"]


def trained(text, model, folder, task):
    """A training that has ended, its outputs on the probe batch, and what is weighed of it."""
    training = prepared(text, model, folder, task=task)
    training.run()
    training.finish()
    weighed = on_disk(training.model, folder / "shipped", [method.save for method in training.methods])
    return training, training.probe_logits(), weighed


def loaded(training, place):
    """The pretrained or shipped model in `place`, as a user loads it who knows the task's labels."""
    auto, options = training.task.model_options()
    torch.manual_seed(1)  # a new head is another one
    return getattr(transformers, auto).from_pretrained(place, **options)


def logits(training, model):
    training.model = model
    return training.probe_logits()


def named_base(folder):
    return json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]


# PEFT gives the user's own copy its cache by the older name.
@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["classification", "causal_lm"])
@pytest.mark.parametrize("text", [*PEFT, *ADAPTER, *WHOLE])
def test_what_is_shipped_gives_the_same_outputs(model, tmp_path, text, kind):
    if model.name == "tiny-bert" and kind == "causal_lm":
        pytest.skip("an encoder does not write")
    if model.name == "tiny-llama" and (text == "bitfit" or (text.startswith("prompt") and kind == "classification")):
        pytest.skip("refused when planning")
    task = jobs.prose(tmp_path) if kind == "causal_lm" else jobs.table(tmp_path)
    training, wanted, weighed = trained(text, model, tmp_path, task)
    shipped = tmp_path / "shipped"
    files = {file.name: file.stat().st_size for file in shipped.iterdir() if file.name != "README.md"}
    assert weighed == {"bytes": sum(files.values()), "files": files}
    if text in WHOLE:
        ours = loaded(training, shipped)
    else:
        assert "model.safetensors" not in files, "the base is not shipped"
        assert named_base(shipped) == str(model)
        ours = loaded(training, named_base(shipped))
        assert not torch.equal(logits(training, ours), wanted)
        if text in ADAPTER:
            bottleneck.load(ours, shipped)
        else:
            with _peft.quiet():
                ours = _peft.load().PeftModel.from_pretrained(ours, shipped)
    seen = logits(training, ours)
    # PiSSA computes its directions once more, and AdaLoRA loads without the ranks that it pruned.
    torch.testing.assert_close(seen, wanted, rtol=0, atol=1e-6 if "pissa" in text or "adalora" in text else 0)


@pytest.mark.parametrize(
    ("text", "alone"),
    [
        ("lora(r=2)", True),
        ("nf4 >> lora(r=2)", True),  # whoever loads the base can quantize it so again
        ("full >> lora(r=2)", False),
        ("magnitude(0.5) >> adapter(4)", False),
        ("bnb_int8 >> lora(r=2)", True),
        ("full >> nf4 >> lora(r=2)", False),
        ("full >> prefix(3)", False),
    ],
)
def test_an_adapter_on_another_base_than_the_published_one_ships_with_it(tiny_bert, tmp_path, text, alone):
    status, reason, records = jobs.run(text, tiny_bert, tmp_path)
    assert status == "ok", reason
    shipped = records[-1]["size"]
    if alone:
        assert shipped["files"].keys() == {"adapter_config.json", "adapter_model.safetensors"}
        assert shipped["bytes"] < records[-1]["weight_bytes"]
    else:
        assert shipped["files"].keys() == {"model.pt"}
        assert shipped["bytes"] > records[-1]["weight_bytes"]


def test_what_ships_whole_gives_the_same_outputs(model, tmp_path):
    training, wanted, _ = trained("lora(r=2)", model, tmp_path, jobs.table(tmp_path))
    on_disk(training.model, tmp_path / "whole", [whole])
    again = torch.load(tmp_path / "whole" / "model.pt", weights_only=False)
    assert torch.equal(logits(training, again), wanted)


@pytest.mark.parametrize("quantizer", ["nf4", "fp4(double_quant=False)", "bnb_int8"])
@pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning")
def test_on_a_base_that_is_quantized_while_it_is_loaded_too(model, tmp_path, quantizer):
    from bench.stage import checkpoint

    status, reason, _ = jobs.run(f"{quantizer} >> lora(r=2)", model, tmp_path)
    assert status == "ok", reason
    theirs, _ = checkpoint.load(tmp_path / "checkpoints" / "node1.pt")
    training = prepared("lora(r=2)", model, tmp_path)
    wanted = logits(training, theirs)
    on_disk(theirs, tmp_path / "shipped", [])
    config = theirs.get_base_model().config.quantization_config
    auto, options = training.task.model_options()
    ours = getattr(transformers, auto).from_pretrained(
        named_base(tmp_path / "shipped"), quantization_config=config, **options
    )
    for module in ours.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    with _peft.quiet():
        ours = _peft.load().PeftModel.from_pretrained(ours, tmp_path / "shipped")
    torch.testing.assert_close(logits(training, ours), wanted, rtol=0, atol=1e-6)
