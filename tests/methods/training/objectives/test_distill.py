"""Distillation against hand computations."""

import math
import shutil

import pytest
import torch

from bench.models.sources.directory import Directory
from bench.plan import refusals
from bench.recipe.facts import stages_in_effect
from bench.recipe.recipe import parse
from bench.stage import checkpoint
from bench.tasks.base import Batch
from bench.testing import jobs
from methods.training.objectives._shared import distillation
from tests import subjects


def batch(lengths, terms):
    mask = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
    return Batch({"attention_mask": mask}, torch.zeros(len(lengths)), lengths, terms, tuple(range(len(lengths))))


def test_the_soft_loss_by_hand():
    # At T = 2 the logits (2, 0) and (0, 0) are (1, 0) and (0, 0): p = σ(1) against one half.
    p = 1 / (1 + math.exp(-1))
    by_hand = 4 * (p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5))
    loss = distillation.soft_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]]), 2.0)
    assert float(loss) == pytest.approx(by_hand, rel=1e-6)
    # A second row that agrees halves the mean.
    both = distillation.soft_loss(torch.zeros(2, 2), torch.tensor([[2.0, 0.0], [0.0, 0.0]]), 2.0)
    assert float(both) == pytest.approx(by_hand / 2, rel=1e-6)


def test_padding_does_not_count_and_items_count_by_their_terms():
    values = torch.tensor([[1.0, 3.0, 99.0], [6.0, 6.0, 6.0]])
    assert float(distillation.per_item(values, batch((2, 3), (1, 1)))) == 4.0
    assert float(distillation.per_item(values, batch((2, 3), (1, 2)))) == pytest.approx((2 + 2 * 6) / 3)


def test_blocks_are_spread_as_distilbert_does_and_matched_as_tinybert_does():
    assert distillation.spread(12, 6) == [0, 2, 4, 7, 9, 11]
    assert distillation.spread(6, 1) == [0]
    assert distillation.spread(3, 3) == [0, 1, 2]
    assert distillation.matched(4, 12) == [2, 5, 8, 11]


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_llama"])
@pytest.mark.parametrize("match", ["logits", "hidden", "attention"])
def test_it_trains_and_leaves_a_plain_student(model, match, request, tmp_path):
    folder = request.getfixturevalue(model)
    status, reason, records = jobs.run(f'full >> distill(layers=1, match="{match}")', folder, tmp_path)
    assert status == "ok", reason
    student, _ = checkpoint.load(tmp_path / "checkpoints" / "node1.pt")
    assert student.config.num_hidden_layers == len(distillation.stack(student)) == 1
    assert not distillation.left(student)
    assert records[1]["parameters"]["total"] < records[0]["parameters"]["total"]


def test_a_language_model_is_distilled(tiny_llama, tmp_path):
    status, reason, _ = jobs.run('distill(layers=1, match="hidden")', tiny_llama, tmp_path, task=jobs.prose(tmp_path))
    assert status == "ok", reason


def test_parts_of_a_batch_give_its_gradient(tiny_bert, tmp_path):
    for match in ("hidden", "attention"):
        text = f'full >> distill(layers=1, match="{match}") + accumulate(2) + mixed_precision("bf16")'
        status, reason, _ = jobs.run(text, tiny_bert, tmp_path)
        assert status == "ok", reason


def test_the_loss_is_the_formula(tiny_bert, tmp_path, monkeypatch):
    """What the loop minimises, recomputed from both models' logits with explicit probabilities."""
    from bench.stage.loop import Training

    seen = []
    finish = Training.finish

    def look(self):
        if "distill" in self.state:
            self.model.eval()
            with torch.no_grad():
                loss = float(self.loss(self.probe))
                student, teacher = (m(**self.probe.inputs).logits for m in (self.model, self.state["distill"].teacher))
                p, q = (teacher / 3).softmax(-1), (student / 3).softmax(-1)
                soft = 9 * float((p * (p / q).log()).sum(-1).mean())
                hard = float(torch.nn.functional.cross_entropy(student, self.probe.labels))
            seen.append((loss, 0.7 * soft + 0.3 * hard))
        finish(self)

    monkeypatch.setattr(Training, "finish", look)
    assert jobs.run("full >> distill(layers=1, temperature=3.0, alpha=0.7)", tiny_bert, tmp_path)[0] == "ok"
    ((loss, by_hand),) = seen
    assert loss == pytest.approx(by_hand, rel=1e-5)


def test_the_attention_maps_are_the_models_own(tiny_bert):
    from transformers import AutoModel

    model = AutoModel.from_pretrained(tiny_bert, attn_implementation="eager").eval()
    other = AutoModel.from_pretrained(tiny_bert, attn_implementation="sdpa").eval()
    ids = torch.randint(5, 100, (2, 7))
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    with torch.no_grad():
        maps = model(ids, mask, output_attentions=True).attentions[-1]
        plain = other(ids, mask).last_hidden_state
        attention = distillation.Attention(other, model)
        kept = other(ids, mask).last_hidden_state
    logs = distillation.attention(other)[-1].module.__dict__[distillation.KEEPING]
    assert torch.allclose(logs.exp(), maps, atol=1e-6)
    assert torch.allclose(kept, plain, atol=1e-5)
    attention.remove()
    assert not distillation.left(other)


def narrow(folder, source):
    from transformers import BertConfig, BertModel

    shutil.copytree(source, folder)
    config = BertConfig.from_pretrained(source)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 16, 32, 1
    BertModel(config).save_pretrained(folder)


@pytest.mark.parametrize("before", ["full", "full >> torch_int8_dynamic", "lora(r=2)"])
def test_a_named_student_of_another_width(before, tiny_bert, tmp_path):
    narrow(tmp_path / "narrow", tiny_bert)
    status, reason, _ = jobs.run(f'{before} >> distill(student="narrow", match="hidden")', tiny_bert, tmp_path)
    assert status == "ok", reason
    student, _ = checkpoint.load(tmp_path / "checkpoints" / f"node{len(parse(before).stages)}.pt")
    assert student.config.hidden_size == 16


def test_a_student_with_another_tokenizer_is_refused(tiny_bert, tmp_path, plan_context):
    narrow(tmp_path / "same", tiny_bert)
    narrow(tmp_path / "other", tiny_bert)
    file = tmp_path / "other" / "tokenizer.json"
    file.write_text(file.read_text().replace('"##a"', '"##aa"'))
    said = {}
    for name in ("same", "other"):
        where = plan_context(f'full >> distill(student="{name}")', suite_folder=tmp_path, given=Directory(tiny_bert))
        said[name] = list(refusals.problems(where.stage.main, where))
    assert not said["same"]
    assert "another tokenizer" in said["other"][0]
    (status, reason, _) = jobs.run('full >> distill(student="other")', tiny_bert, tmp_path)
    assert status == "failed", "planning tells what a run would find out"
    assert "another tokenizer" in reason


def test_a_students_weights_are_in_a_nodes_identity(tiny_bert, tmp_path):
    narrow(tmp_path / "narrow", tiny_bert)
    method = parse('distill(student="narrow")').stages[0].main
    before = method.reads(tmp_path)
    config = tmp_path / "narrow" / "config.json"
    config.write_text(config.read_text() + " ")
    assert list(before) == ["narrow"]
    assert method.reads(tmp_path) != before


def test_what_was_before_the_student_is_forgotten():
    stages = parse("full >> magnitude(0.5) >> distill >> full").stages
    assert [stage.main.name for stage in stages_in_effect(stages)] == ["distill", "full"]


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("distill", "untrained"),
        ('pretrain("mlm") >> distill', "untrained"),
        ("lora(r=2) >> distill", "fold the adapter first"),
        ("full >> torch_int8_dynamic >> distill", "distill first"),
        ("full >> half >> distill", "distill first"),
        ("full >> distill(layers=9)", "2 blocks"),
        ("full >> drop_layers(1) >> distill(layers=2)", "1 blocks"),
        ('full >> distill(student="nowhere")', "neither a registered model, nor a directory"),
        ('full >> distill(layers=1, student="nowhere")', "one of the two"),
        ("full >> distill + label_smoothing(0.1)", "label_smoothing"),
    ],
)
def test_refusals(recipe, said, monkeypatch):
    class Two(subjects.NoModel):
        def config(self):
            return {"num_hidden_layers": 2}

    monkeypatch.setattr(subjects, "NoModel", Two)
    (cell,) = subjects.make_plan(monkeypatch, {"it": recipe}).cells
    assert any(said in reason for reason in cell.refused), cell.refused


def test_a_pruned_teachers_zeros_do_not_bind_the_student(tiny_bert, tmp_path):
    status, reason, _ = jobs.run("full >> magnitude(0.5) >> distill(layers=1) >> full", tiny_bert, tmp_path)
    assert status == "ok", reason


def test_a_student_of_the_teachers_blocks_has_their_shapes(plan_context):
    for student, shapes in (("", {"reshaped", "factored"}), ('student="other"', set())):
        where = plan_context(f"full >> prune_ffn(0.5) >> low_rank(4) >> distill({student}) >> full")
        assert where.facts == shapes


def test_a_student_whose_shape_the_configuration_cannot_tell_is_saved_whole(tiny_bert, tmp_path):
    status, reason, records = jobs.run("full >> prune_hidden(0.3) >> distill(layers=1)", tiny_bert, tmp_path)
    assert status == "ok", reason
    assert set(records[-1]["size"]["files"]) == {"model.pt"}


def test_a_teacher_that_moved_is_seen(tiny_bert, tmp_path, monkeypatch):
    from methods.training.objectives.distill import Distill

    def spoil(self, training):
        with torch.no_grad():
            next(training.state["distill"].teacher.parameters()).add_(1e-3)

    monkeypatch.setattr(Distill, "on_step", spoil)
    status, reason, _ = jobs.run("full >> distill(layers=1)", tiny_bert, tmp_path)
    assert status == "invalid"
    assert "the teacher is bit-identical" in reason


def test_a_student_that_does_not_ask_the_teacher_is_seen(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr(
        distillation, "soft_loss", lambda student, teacher, temperature: student.float().square().mean()
    )
    status, reason, _ = jobs.run("full >> distill(layers=1)", tiny_bert, tmp_path)
    assert status == "invalid"
    assert "logits of the teacher" in reason
