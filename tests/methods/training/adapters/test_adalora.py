"""AdaLoRA's ranks against the paper's cubic schedule, and its penalty by hand."""

import pytest
import torch

from bench.plan import refusals
from methods import _peft
from tests.trainings import make, prepared


def ranks(training):
    return [int(layer.lora_E["default"].count_nonzero()) for layer in _peft.layers(training.model, "lora_E").values()]


@pytest.mark.parametrize("steps", [4, 9, 20])
def test_the_budget_falls_as_in_the_paper_whatever_the_steps(model, tmp_path, steps, monkeypatch):
    training = prepared("adalora(init_r=6, target_r=2)", model, tmp_path, steps=steps)
    seen = []
    monkeypatch.setattr(type(training.trainer), "on_step_end", lambda self, training: seen.append(sum(ranks(training))))
    training.run()
    # All ranks for 15 % of the steps, the last half with those that are left, and the cube of what is to come between.
    final = steps // 2
    first = min(round(0.15 * steps), steps - final - 1)
    begun, target = 6 * 4, 2 * 4

    def budget(step):
        to_come = min(1.0, max(0.0, 1 - (step - first) / (steps - final - first)))
        return int(target + (begun - target) * to_come**3)

    assert seen == [budget(step) for step in range(steps)]
    assert seen[0] == begun
    assert seen[-final:] == [target] * final


def test_share_shortens_the_schedule(tiny_bert, tmp_path):
    training = prepared("adalora(init_r=4, target_r=2, share=0.5)", tiny_bert, tmp_path, steps=20)
    training.run()
    assert len(training.losses) == 10
    assert sum(ranks(training)) == 2 * 4


def test_what_counts_ranks_stays_frozen_where_peft_moves_it(model, tmp_path):
    """To another type here; the pretend GPU of the contract sees to another device."""
    training = make("adalora(init_r=4, target_r=2)", model, tmp_path)
    training.model.bfloat16()
    training.prepare()
    trained = {name for name, parameter in training.model.named_parameters() if parameter.requires_grad}
    assert any(".lora_E." in name for name in trained)
    assert not [name for name in trained if "ranknum" in name]


def test_the_penalty_is_added_to_the_loss(model, tmp_path):
    training = make("adalora(init_r=4, target_r=2, orth_reg_weight=0.25)", model, tmp_path)
    training.prepare()
    training.model.eval()
    distances = []
    for layer in _peft.layers(training.model, "lora_E").values():
        down, up = layer.lora_A["default"], layer.lora_B["default"]
        distances += [(down @ down.T - torch.eye(4)).norm(), (up.T @ up - torch.eye(4)).norm()]
    plain = training.task.criterion(training.outputs(training.probe), training.probe)
    torch.testing.assert_close(training.loss(training.probe), plain + 0.25 * sum(distances) / len(distances))


def test_a_layer_adds_the_scaled_product_over_its_ranks(model, tmp_path):
    training = prepared("adalora(init_r=4, target_r=2, alpha=6.0)", model, tmp_path)
    layer = next(iter(_peft.layers(training.model, "lora_E").values()))
    values = torch.nn.init.normal_(layer.lora_E["default"].data)
    x = torch.randn(3, 32)
    added = x @ (layer.lora_A["default"] * values).T @ layer.lora_B["default"].T
    torch.testing.assert_close(
        layer(x), layer.base_layer(x) + 6.0 / layer.ranknum["default"] * added, atol=1e-5, rtol=1e-4
    )


def test_ranks_that_were_not_pruned_are_found_out(tiny_bert, tmp_path):
    training = make("adalora(init_r=4, target_r=2)", tiny_bert, tmp_path)
    before = training.snapshot()
    training.prepare()
    training.run()
    assert all(claim.holds for claim in training.trainer.evidence(before, training))
    with torch.no_grad():
        next(iter(_peft.layers(training.model, "lora_E").values())).lora_E["default"].fill_(1.0)
    held = {claim.text: claim.holds for claim in training.trainer.evidence(before, training)}
    assert held["of 16 ranks 8 are left"] is False


@pytest.mark.parametrize(
    ("text", "steps", "reason"),
    [
        ("adalora(init_r=4, target_r=4)", 60, "there is nothing to prune from 4 ranks to 4"),
        ("adalora", 3, "3 steps are too few"),
        ("adalora(share=0.05)", 60, "3 steps are too few"),
        ("adalora + early_stopping", 60, "its ranks reach their target on a schedule"),
    ],
)
def test_refusals(text, steps, reason, plan_context):
    at = plan_context(text, steps=steps)
    (problem,) = refusals.problems(at.stage.main, at)
    assert problem.startswith(reason)
