"""Ensembles against their members, each trained by itself."""

import copy
import itertools

import pytest
import torch

from bench.measure import memory
from bench.models.architecture import members
from bench.stage import checkpoint
from bench.testing import jobs
from tests.subjects import make_plan
from tests.trainings import gradient, no_dropout, prepared


@pytest.fixture(params=["tiny_bert", "tiny_llama"])
def model(request):
    return request.getfixturevalue(request.param)


def weights(model):
    return torch.cat([parameter.flatten() for parameter in model.parameters() if parameter.requires_grad])


@pytest.mark.parametrize("trainer", ["full", "lora(r=2)", "head"])
def test_each_member_trains_as_it_would_alone(model, tmp_path, trainer):
    together = no_dropout(prepared(f"{trainer} + ensemble(3)", model, tmp_path))
    for member in together.beside:
        for module in member.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    alone = []
    for start in [together.model, *together.beside]:
        single = prepared(trainer, model, tmp_path)
        single.model.load_state_dict(copy.deepcopy(start.state_dict()))
        no_dropout(single).run()
        alone.append(single)
    together.run()
    for member, single in zip([together.model, *together.beside], alone, strict=True):
        assert torch.allclose(weights(member), weights(single.model), atol=1e-6)
    for step, loss in enumerate(together.losses):
        assert float(loss) == pytest.approx(sum(float(single.losses[step]) for single in alone) / 3, rel=1e-5)


@pytest.mark.parametrize("trainer", ["full", "lora(r=2)", "head"])
def test_members_start_from_other_new_values_and_share_what_is_frozen(model, tmp_path, trainer):
    training = prepared(f"{trainer} + ensemble(3)", model, tmp_path)
    everyone = [dict(member.named_parameters()) for member in (training.model, *training.beside)]
    for one, other in itertools.combinations(everyone, 2):
        assert one.keys() == other.keys()
        for name, parameter in one.items():
            if not parameter.requires_grad:
                assert other[name] is parameter
                continue
            assert other[name] is not parameter
            new = "score" in name or "classifier" in name or "lora_A" in name
            if parameter.dim() > 1:
                assert torch.equal(other[name], parameter) is not new, name
            # The same numbers: so drawn from the same distribution.
            assert torch.equal(other[name].flatten().sort().values, parameter.flatten().sort().values)


def test_a_prompt_is_not_shuffled(tiny_bert, tmp_path):
    training = prepared("prompt(3) + ensemble(2)", tiny_bert, tmp_path)
    ours, theirs = (
        next(p for name, p in member.named_parameters() if "prompt_encoder" in name)
        for member in (training.model, *training.beside)
    )
    assert torch.equal(ours, theirs)


def test_answer_is_the_mean_of_probabilities(model, tmp_path):
    training = prepared("full + ensemble(2)", model, tmp_path)
    training.run()
    training.finish()
    one, other = (member(**training.probe.inputs).logits.detach() for member in members(training.model))
    seen = training.probe_logits()
    assert torch.allclose(seen.exp(), (one.softmax(-1) + other.softmax(-1)) / 2, atol=1e-6)
    assert not torch.allclose(one, other)


def test_record_and_checkpoint_hold_all_members(model, tmp_path):
    (alone,) = jobs.run("full", model, tmp_path)[2]
    status, reason, (record,) = jobs.run("full + ensemble(3)", model, tmp_path)
    assert status == "ok", reason
    for of in (
        lambda r: r["parameters"]["total"],
        lambda r: r["training"]["trainable"],
        lambda r: r["training"]["step_flops"],
    ):
        assert of(record) == 3 * of(alone)
    for of in (
        lambda r: r["training"]["optimizer_bytes"],
        lambda r: r["training"]["gradient_bytes"],
        lambda r: r["size"]["bytes"],
    ):
        assert of(record) == pytest.approx(3 * of(alone), rel=0.02)
    # Members go through their passes one after the other, so their activations are never there together.
    assert record["training"]["activation_bytes"] == pytest.approx(alone["training"]["activation_bytes"], rel=0.02)
    folders = {name.split("/")[0] for name in record["size"]["files"]}
    assert folders == {"member0", "member1", "member2"}
    loaded, _ = checkpoint.load(tmp_path / "checkpoints" / "node0.pt")
    assert len(members(loaded)) == 3
    assert memory.parameter_counts(loaded)["total"] == record["parameters"]["total"]


def test_adapters_share_their_base(tiny_bert, tmp_path):
    (alone,) = jobs.run("lora(r=2)", tiny_bert, tmp_path)[2]
    status, reason, (record,) = jobs.run("lora(r=2) + ensemble(3)", tiny_bert, tmp_path)
    assert status == "ok", reason
    assert record["parameters"]["total"] == alone["parameters"]["total"] + 2 * alone["training"]["trainable"]
    assert record["size"]["bytes"] == pytest.approx(3 * alone["size"]["bytes"], rel=0.02)


def test_micro_batches_add_up_to_the_batch(tiny_bert, tmp_path):
    whole, parts = (prepared(f"full + ensemble(2){rest}", tiny_bert, tmp_path) for rest in ("", " + accumulate(3)"))
    for training in (whole, parts):
        training.model.eval()
    wanted = gradient(whole)
    assert torch.linalg.vector_norm(gradient(parts) - wanted) < 1e-5 * torch.linalg.vector_norm(wanted)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("full + ensemble >> torch_int8_dynamic", "torch_int8_dynamic: an ensemble is the end of a recipe"),
        ("lora + ensemble >> merge", "merge: an ensemble is the end of a recipe"),
        ("full + ensemble >> full", "full: an ensemble is the end of a recipe"),
        ("full + ensemble + gradient_checkpointing", "ensemble: gradient_checkpointing changes the model that trains"),
        ("full + ensemble + dropout(0.1)", "ensemble: dropout changes the model that trains"),
        ("adalora + ensemble", "ensemble: adalora prunes the ranks of one member only"),
        (
            "full + ensemble + early_stopping",
            "ensemble: early_stopping stops by the validation loss of one member only",
        ),
        ("magnitude(0.5) >> full + ensemble", "ensemble: magnitude holds on to one model's weights"),
    ],
)
def test_what_would_reach_one_member_is_refused(monkeypatch, text, says):
    (cell,) = make_plan(monkeypatch, {"x": text}).cells
    assert any(reason.startswith(says) for reason in cell.refused), cell.refused


def test_members_that_nothing_would_tell_apart_are_refused(monkeypatch):
    (cell,) = make_plan(monkeypatch, {"x": "full >> full + ensemble"}).cells
    assert cell.refused == ()  # a bert has dropout
    from tests.architectures import structure
    from tests.subjects import NoModel

    llama = structure("llama")
    monkeypatch.setattr(NoModel, "model_type", lambda self: "llama")
    monkeypatch.setattr(NoModel, "examine", lambda *loaded: llama)
    (cell,) = make_plan(monkeypatch, {"x": "full >> full + ensemble"}).cells
    assert any("its members would all be the same" in reason for reason in cell.refused)


@pytest.mark.parametrize(
    "text",
    [
        'full + ensemble(2) + adversarial("pgd") + rdrop',
        'lora(r=2) + ensemble(2) + mixed_precision("fp16") + neftune + contrastive("supcon")',
        'full + ensemble(2) + augment("eda") + accumulate(2) + gradient_clip(0.5) + schedule("linear") + weight_decay(0.1)',
    ],
)
def test_with_others(tiny_bert, tmp_path, text):
    status, reason, _ = jobs.run(text, tiny_bert, tmp_path)
    assert status == "ok", reason
