"""Nine recipes on each of many architectures: each ends ``ok``, or is refused at planning with a true reason."""

from pathlib import Path

import pytest
import torch

from bench.machine import machine
from bench.models.names import plain
from bench.models.registry import open_model
from bench.plan import plan
from bench.recipe import recipe
from bench.stage import checkpoint
from bench.suite.suite import of
from bench.tasks.registry import open_task
from bench.testing import jobs
from tests import architectures

RECIPES = (
    "full",
    "head",
    "lora(r=4)",
    "prefix(4)",
    "adapter(size=8)",
    "full >> prune_ffn(0.5)",
    "full >> prune_heads(0.5)",
    "full >> nf4",
    "full >> torch_int8_dynamic",
)

REFUSED = {
    # the whole model
    "mamba": "no AutoModelForSequenceClassification for a mamba model",
    "vit": "no AutoModelForSequenceClassification for a vit model",
}


def ends(model: Path, folder: Path, text: str) -> tuple[str, str]:
    """How a recipe ends on a model, and why."""
    data = jobs.table(folder)
    suite = of({
        "model": str(model), "task": data.model_dump(), "recipes": {"r": text},
        "budget": {"steps": 3, "batch_size": 8, "max_length": 32}, "measure": {"latency": []},
    })  # fmt: skip
    here = machine.look("cpu", 1)
    if reasons := plan.make(suite, folder, here).cells[0].refused:
        return "refused", "; ".join(reasons)
    status, reason, _ = jobs.run(text, model, folder, task=data, budget={"steps": 3}, measure={"latency": []})
    return status, reason


@pytest.mark.slow
@pytest.mark.parametrize("name", architectures.MODELS)
def test_recipes_end_ok_or_are_refused_before_anything_runs(name, tmp_path):
    model = architectures.make(name, tmp_path)
    found = {text: ends(model, tmp_path, text) for text in RECIPES}
    if name in REFUSED:
        assert all(status == "refused" and REFUSED[name] in why for status, why in found.values()), found
        return
    wrong = {text: end for text, end in found.items() if end[0] not in ("ok", "refused")}
    assert not wrong
    # Whatever the architecture, these need to know nothing of it.
    assert all(found[text][0] == "ok" for text in ("full", "head", "lora(r=4)")), found


TRAINERS = ("head", "lora(r=4)", "adalora", "adapter(size=8)", "bitfit", "prompt(2)", "full")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bart", "bert", "deberta-v2", "distilbert", "t5"])
def test_every_trainer_trains_what_no_file_held(name, tmp_path):
    import transformers

    model = architectures.make(name, tmp_path)
    classifier = transformers.AutoModelForSequenceClassification
    _, report = classifier.from_pretrained(model, num_labels=3, output_loading_info=True)
    made_new = report["missing_keys"]
    assert made_new
    ran = 0
    for text in TRAINERS:
        data = jobs.table(tmp_path)
        status, reason, records = jobs.run(
            text, model, tmp_path, task=data, budget={"steps": 12}, measure={"latency": []}
        )
        if status == "refused" or ends(model, tmp_path, text)[0] == "refused":
            continue
        assert status == "ok", (text, reason)
        ran += 1
        trained, _ = checkpoint.load(tmp_path / "checkpoints" / "node0.pt")
        live = {plain(each).removeprefix("base_model.") for each, p in trained.named_parameters() if p.requires_grad}
        assert made_new <= live, text
        claims = {claim["text"]: claim["seen"] for claim in records[0]["evidence"]}
        said = claims["all weights that no file held, and that were drawn at random for the task, train"]
        assert said == f"{len(made_new)} of {len(made_new)} tensors"
    assert ran >= 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["albert", "bart", "bert", "deberta-v2", "falcon", "mpt", "t5"])
@pytest.mark.parametrize("text", ["magnitude(0.5)", "bnb_int8", "torch_int8_dynamic", "nf4", "low_rank(4)", "int4"])
def test_no_weight_matrix_of_the_blocks_is_left_out(name, text, tmp_path):
    model = architectures.make(name, tmp_path)
    if ends(model, tmp_path, text)[0] == "refused":
        assert (name, text) in {("t5", "nf4")}
        return
    before, _ = open_model(str(model), tmp_path).load(
        "AutoModelForSequenceClassification", open_task(jobs.table(tmp_path), tmp_path).model_options()[1]
    )
    after, _ = checkpoint.load(tmp_path / "checkpoints" / "node0.pt")
    now = dict(after.named_parameters())
    # By the names alone: what is in a numbered block, has two dimensions and is no table of embeddings.
    inside = [
        key
        for key, weight in before.named_parameters()
        if any(part.isdigit() for part in key.split("."))
        and weight.dim() >= 2
        and "embed" not in key
        and "relative" not in key
    ]
    assert inside
    same = [
        key
        for key in inside
        if key in now
        and now[key].shape == before.get_parameter(key).shape
        and torch.equal(now[key], before.get_parameter(key))
    ]
    assert not same


def test_what_is_refused_says_what_stands_in_the_way(tmp_path):
    model = architectures.make("gpt2", tmp_path)
    status, why = ends(model, tmp_path, "full >> nf4")
    assert status == "refused"
    assert "Conv1D" in why
    assert recipe.parse("full >> nf4")
