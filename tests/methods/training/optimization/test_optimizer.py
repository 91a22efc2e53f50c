"""Each optimizer against the library's own on a bare loop, and against formulas of its first step and of its state."""

import copy
import itertools
import math
import subprocess
import sys

import pytest
import torch

from bench.measure.memory import optimizer_bytes
from bench.models.architecture import blocks
from bench.recipe import recipe
from bench.recipe.errors import RecipeError
from bench.testing import jobs
from methods.training.optimization.optimizer import Optimizer
from tests.trainings import claims, make, prepared

RECIPES = [
    'optimizer("sgd", lr=0.05)',
    'optimizer("sgd", lr=0.05, momentum=0.0)',
    'optimizer("adam")',
    'optimizer("adamw", lr=0.001)',
    'optimizer("adafactor", lr=0.01)',
    'optimizer("lion", lr=0.0001)',
    'optimizer("muon")',
    'optimizer("sgd_8bit", lr=0.05, min_8bit_size=256)',
    'optimizer("adamw_8bit")',
    'optimizer("lion_8bit", lr=0.0001, min_8bit_size=1)',
]


@pytest.mark.parametrize("modifier", RECIPES)
@pytest.mark.parametrize("model", ["tiny_bert", "tiny_llama"])
def test_it_is_proven(model, modifier, tmp_path, request):
    training = prepared(f"full + {modifier}", request.getfixturevalue(model), tmp_path)
    training.run()
    for text, (holds, seen) in claims(training).items():
        assert holds, f"{text}: {seen}"


def test_losses_are_those_of_a_bare_loop(tiny_bert, tmp_path):
    training, batches = make('full + optimizer("sgd", lr=0.05)', tiny_bert, tmp_path), None
    batches = training.batches()
    bare = copy.deepcopy(training.model)
    torch.manual_seed(7)
    training.prepare()
    training.run()

    torch.manual_seed(7)
    bare.train()
    optimizer = torch.optim.SGD(bare.parameters(), lr=0.05, momentum=0.9, fused=True)
    losses = []
    for batch in itertools.islice(batches, 6):
        loss = torch.nn.functional.cross_entropy(bare(**batch.inputs).logits, batch.labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert [float(loss) for loss in training.losses] == losses


def one_step(training):
    """Each trained weight before and after one update, and its gradient."""
    before = [parameter.detach().clone() for parameter in training.parameters]
    training.gradients(training.probe, 1.0)
    gradients = [parameter.grad.clone() for parameter in training.parameters]
    training.update()
    return zip(training.parameters, before, gradients, strict=True)


def test_first_step_of_lion_is_the_sign(tiny_llama, tmp_path):
    for modifier in ('optimizer("lion", lr=0.001)', 'optimizer("lion_8bit", lr=0.001, min_8bit_size=1)'):
        for weight, before, gradient in one_step(prepared(f"full + {modifier}", tiny_llama, tmp_path)):
            torch.testing.assert_close(weight.detach(), before - 0.001 * gradient.sign())


def newton_schulz(value):
    """What five of Muon's steps make of a singular value that is a part of the whole matrix's norm."""
    for _ in range(5):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    return value


def test_five_steps_take_singular_values_near_one_if_they_are_not_tiny():
    made = newton_schulz(torch.linspace(0.0, 1.0, 100_001, dtype=torch.double))
    assert 0.65 < made[1_000:].min() < 0.7 < 1.2 < made.max() < 1.21  # those above 1 % of the norm
    assert made[10] == pytest.approx(1e-4 * 3.4445**5, rel=0.01)  # the others are hardly more than multiplied


def muons(training):
    """The matrices that Muon updates."""
    return [p for block in blocks(training.model) for p in block.parameters() if p.dim() == 2]


@pytest.mark.parametrize("momentum", [0.95, 0.8])
def test_muons_updates_are_those_of_its_formula(tiny_llama, tmp_path, momentum):
    text = f'full(lr=0.01) + optimizer("muon", momentum={momentum}) + weight_decay(0.0)'
    training = prepared(text, tiny_llama, tmp_path)
    assert len(muons(training)) == 2 * 7  # of two blocks: query, key, value, output, and three that feed forward
    torch.manual_seed(0)
    for weight in muons(training):
        # Gradients of singular values that are not tiny, for what becomes of tiny ones is bfloat16's rounding.
        u, _, v = torch.linalg.svd(torch.randn(weight.shape, dtype=torch.double), full_matrices=False)
        buffer = 0.0
        for _ in range(3):
            singular = 0.2 + torch.rand(len(v), dtype=torch.double)
            buffer = momentum * buffer + (1 - momentum) * singular
            nesterov = (1 - momentum) * singular + momentum * buffer
            before = weight.detach().double()
            weight.grad = (u * singular @ v).float()
            training.update()
            update = (before - weight.detach()) / 0.01
            # Orthogonal, but for what five steps leave to do; and with torch's factor as large as one of AdamW's.
            wanted = 0.2 * math.sqrt(max(weight.shape)) * (u * newton_schulz(nesterov / nesterov.norm())) @ v
            assert (update - wanted).norm() < 0.04 * wanted.norm()  # bfloat16


def test_muon_leaves_all_else_to_adamw_and_makes_the_largest_singular_values_one(tiny_llama, tmp_path):
    training = prepared('full(lr=0.01) + optimizer("muon") + weight_decay(0.0)', tiny_llama, tmp_path)
    inside = {id(p) for p in muons(training)}
    for weight, before, gradient in one_step(training):
        update = (before - weight.detach()) / 0.01
        if id(weight) in inside:
            u, s, v = torch.linalg.svd(gradient, full_matrices=False)
            made = (u.T @ update @ v.T).diagonal() / (0.2 * math.sqrt(max(weight.shape)))
            # Of so small a batch's gradient many singular values are tiny, so the others alone are near 1.
            assert 0.65 < made[s > 0.1 * s.norm()].min() <= made.max() < 1.25
        else:
            moved = gradient.abs() > 1e-6
            torch.testing.assert_close(update[moved], gradient[moved].sign(), rtol=0.02, atol=0)


def test_muon_takes_another_rate_for_both_its_parts(tiny_bert, tmp_path):
    training = prepared('full + optimizer("muon", lr=0.5)', tiny_bert, tmp_path)
    assert {group["lr"] for group in training.optimizer.param_groups} == {0.5}
    for group in training.optimizer.param_groups:
        group["lr"] = 0.0  # what a schedule does reaches both
    for weight, before, _ in one_step(training):
        assert torch.equal(weight, before)


def test_eight_bits_take_a_quarter_of_the_state(tiny_bert, tmp_path):
    def state(name):
        training = prepared(f'full + optimizer("{name}", min_8bit_size=1)', tiny_bert, tmp_path)
        training.run()
        return optimizer_bytes(training.optimizer), [p.numel() for p in training.parameters]

    large, sizes = state("adamw")
    small, _ = state("adamw_8bit")
    assert large == sum(8 * size + 4 for size in sizes)
    assert small == sum(2 * size + 2 * 4 * math.ceil(size / 256) for size in sizes) + 2 * 4 * 256
    assert small < 0.3 * large


@pytest.mark.parametrize(
    ("text", "least", "largest"),
    [
        ('full + optimizer("adamw_8bit", min_8bit_size=1000000)', "1,000,000", "4,512"),  # 141 embeddings
        ('ia3 + optimizer("adamw_8bit")', "4,096", "96"),
        ('bitfit + optimizer("lion_8bit")', "4,096", "96"),
    ],
)
def test_a_training_with_no_tensor_large_enough_for_8_bits_is_refused(tiny_bert, tmp_path, text, least, largest):
    status, reason, _ = jobs.run(text, tiny_bert, tmp_path)
    assert status == "refused"
    assert reason.startswith("optimizer: ")
    assert f"tensors of {least} elements and more" in reason
    assert f"has {largest}; lower min_8bit_size, or use" in reason


def test_a_small_trainer_runs_in_8_bits_where_they_begin_low_enough(tiny_bert, tmp_path):
    status, reason, _ = jobs.run('ia3 + optimizer("adamw_8bit", min_8bit_size=64)', tiny_bert, tmp_path)
    assert status == "ok", reason


def test_a_trainer_of_no_matrix_inside_the_blocks_is_refused_with_muon(tiny_llama, tmp_path):
    status, reason, _ = jobs.run('peft("LN_TUNING") + optimizer("muon")', tiny_llama, tmp_path)
    assert (status, reason) == (
        "refused",
        "optimizer: muon updates matrices inside the blocks, and peft trains none; use another optimizer",
    )


def test_without_its_hook_8_bits_end_invalid(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr(Optimizer, "make_optimizer", jobs.nothing("make_optimizer"))
    assert jobs.run('full + optimizer("adamw_8bit", min_8bit_size=1)', tiny_bert, tmp_path)[0] == "invalid"


def test_another_optimizer_at_work_is_seen(tiny_bert, tmp_path):
    training = prepared('full + optimizer("adam")', tiny_bert, tmp_path)
    training.optimizer = torch.optim.AdamW(training.parameters, lr=2e-4)
    training.run()
    found = claims(training)
    assert found["Adam made the updates, at a rate of 0.0002"] == (False, "AdamW at 0.0002")
    assert found["the state of each tensor is what it keeps"][0]


def test_another_rate_at_work_is_seen(tiny_bert, tmp_path):
    training = prepared('full + optimizer("adamw", lr=0.001)', tiny_bert, tmp_path)
    training.optimizer = torch.optim.AdamW(training.parameters, lr=2e-4)
    training.run()
    assert not claims(training)["AdamW made the updates, at a rate of 0.001"][0]


def test_state_of_32_bits_in_the_place_of_8_is_seen(tiny_bert, tmp_path):
    import bitsandbytes

    training = prepared('full + optimizer("adamw_8bit")', tiny_bert, tmp_path)
    training.optimizer = bitsandbytes.optim.AdamW8bit(training.parameters, lr=2e-4, min_8bit_size=10**9)
    training.run()
    held = {text: holds for text, (holds, _) in claims(training).items()}
    assert next(iter(held.values()))
    assert not all(held.values())
    assert [holds for text, holds in held.items() if "8 bit" in text or "byte" in text].count(False) >= 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('full + optimizer("adamw", momentum=0.5)', "adamw takes no momentum"),
        ('full + optimizer("sgd_8bit", momentum=0.0)', "without momentum there is no state to keep in 8 bits"),
        ('head + optimizer("muon")', "muon updates matrices inside the blocks, and head trains none"),
    ],
)
def test_refusals(text, reason, plan_context):
    (stage,) = recipe.parse(text).stages
    (modifier,) = stage.modifiers
    (problem,) = modifier.problems(plan_context(text))
    assert problem.startswith(reason)


def test_unknown_optimizers_are_refused():
    with pytest.raises(RecipeError, match="optimizer: optimizer"):
        recipe.parse('full + optimizer("adamx")')


def test_importing_bitsandbytes_is_silent():
    code = "from bench.models.packed import bitsandbytes; bitsandbytes.optim.AdamW8bit"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "gemm_4bit" not in ran.stdout + ran.stderr


def test_several_processes_are_refused_alike(tiny_bert, tmp_path):
    text = 'bitfit + optimizer("adamw_8bit") + data_parallel(2)'
    status, reason, _ = jobs.run(text, tiny_bert, tmp_path)
    assert status == "refused"
    assert reason.startswith("optimizer: adamw_8bit keeps the state")
