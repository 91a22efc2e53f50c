"""Adversarial training against steps written out in bare PyTorch."""

import pytest
import torch

from bench.models.architecture import embeddings
from bench.models.modes import evaluating
from bench.plan import refusals
from bench.plan.context import PlanContext
from bench.recipe import recipe
from bench.tasks.kinds.classification import Classification
from bench.testing import jobs
from tests.subjects import HERE
from tests.trainings import gradient, no_dropout, prepared

ATTACKS = ["fgm", "pgd", "freelb"]


@pytest.fixture(params=["tiny_bert", "tiny_llama"])
def model(request):
    return request.getfixturevalue(request.param)


def loss_at(training, delta):
    """The loss with `delta` added to the embeddings, by the model's own way in: ``inputs_embeds``."""
    inputs = dict(training.probe.inputs)
    ids = inputs.pop("input_ids")
    outputs = training.model(inputs_embeds=embeddings(training.model)(ids) + delta, **inputs)
    return torch.nn.functional.cross_entropy(outputs.logits, training.probe.labels)


def unit(tensor):
    return torch.stack([row / row.norm() for row in tensor])


def slope(training, delta):
    """The loss's gradient by `delta`, at the real tokens."""
    delta = delta.detach().requires_grad_()
    (found,) = torch.autograd.grad(loss_at(training, delta), delta)
    return found * training.probe.inputs["attention_mask"][..., None]


def climbed(training, delta, alpha, epsilon):
    """One step up, and back into the ball."""
    moved = delta + alpha * unit(slope(training, delta))
    return torch.stack([row * min(1.0, epsilon / float(row.norm())) for row in moved]).detach()


def zero(training):
    ids = training.probe.inputs["input_ids"]
    return torch.zeros(*ids.shape, training.model.config.hidden_size)


def by_hand(training, attack, epsilon, steps, alpha):
    """The gradient that the papers want, and the points that the loss is taken at."""
    delta = zero(training)
    if attack == "fgm":
        points = [delta, epsilon * unit(slope(training, delta))]
        losses = [loss_at(training, point) for point in points]
    elif attack == "pgd":
        for _ in range(steps):
            delta = climbed(training, delta, alpha, epsilon)
        points = [delta]
        losses = [loss_at(training, delta)]
    else:
        points = [delta]
        for _ in range(steps - 1):
            points.append(climbed(training, points[-1], alpha, epsilon))
        losses = [loss_at(training, point) / steps for point in points]
    loss = sum(losses)
    # A padding row of an embedding gets no gradient from look-ups.
    found = torch.autograd.grad(loss, training.parameters, allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None]), loss.detach(), points


@pytest.mark.parametrize(
    ("attack", "epsilon", "steps", "alpha"), [("fgm", 0.7, 1, None), ("pgd", 0.5, 3, 0.3), ("freelb", 0.5, 4, 0.2)]
)
def test_gradient_and_loss_are_those_of_the_papers_steps(tiny_bert, tmp_path, attack, epsilon, steps, alpha):
    rest = "" if attack == "fgm" else f", steps={steps}, alpha={alpha}"
    training = prepared(f'full + adversarial("{attack}", {epsilon}{rest})', tiny_bert, tmp_path)
    with evaluating(training.model):  # no dropout, and no random start
        wanted, loss, points = by_hand(training, attack, epsilon, steps, alpha)
        seen = gradient(training)
        assert torch.linalg.vector_norm(seen - wanted) < 1e-4 * torch.linalg.vector_norm(wanted)
        assert training.gradients(training.probe, 1.0) == pytest.approx(float(loss), rel=1e-5)
    lengths = points[-1].flatten(1).norm(dim=1)
    assert float(lengths.max()) == pytest.approx(epsilon, rel=1e-4)  # some are projected back


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_scale_scales_the_gradient_alone(tiny_bert, tmp_path, attack):
    training = no_dropout(prepared(f'full + adversarial("{attack}")', tiny_bert, tmp_path))
    losses, gradients = [], []
    for scale in (1.0, 64.0):
        torch.manual_seed(0)
        losses.append(float(training.gradients(training.probe, scale)))
        gradients.append(torch.cat([p.grad.flatten() for p in training.parameters]) / scale)
        training.optimizer.zero_grad()
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert torch.linalg.vector_norm(gradients[0] - gradients[1]) < 1e-5 * torch.linalg.vector_norm(gradients[0])


@pytest.mark.parametrize("attack", ["pgd", "freelb"])
def test_start_is_uniform_at_real_tokens(model, tmp_path, attack):
    training = prepared(f'full + adversarial("{attack}", 0.8)', model, tmp_path)
    seen = []
    handle = embeddings(training.model).register_forward_hook(
        lambda layer, args, out: seen.append(out.detach().clone())
    )
    training.gradients(training.probe, 1.0)
    handle.remove()
    ids, real = training.probe.inputs["input_ids"], training.probe.inputs["attention_mask"].bool()
    start = seen[0] - embeddings(training.model)(ids).detach()
    for row, tokens in zip(start, real, strict=True):
        bound = 0.8 / (int(tokens.sum()) * row.shape[-1]) ** 0.5
        assert float(row[~tokens].abs().sum()) == 0
        assert 0.9 * bound < float(row[tokens].abs().max()) <= bound * 1.0001
        # Of ε² a third, for the square of a uniform number is a third of its bound's.
        assert float(row.norm()) == pytest.approx(0.8 / 3**0.5, rel=0.1)


def test_freelb_drops_the_same_on_all_its_points_and_pgd_does_not(tiny_bert, tmp_path):
    def drops(attack):
        training = prepared(f'full + adversarial("{attack}", 1e-6, steps=2, alpha=1e-7)', tiny_bert, tmp_path)
        logits = []
        training.model.register_forward_hook(lambda module, args, out: logits.append(out.logits.detach()))
        training.gradients(training.probe, 1.0)
        return logits

    first, second = drops("freelb")
    assert torch.allclose(first, second, atol=1e-5)
    first, second, _ = drops("pgd")
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("trainer", ["full", "lora(r=2)", "head"])
def test_nothing_is_left_behind(model, tmp_path, attack, trainer):
    training = prepared(f'{trainer} + adversarial("{attack}")', model, tmp_path)
    weights = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    training.gradients(training.probe, 1.0)
    assert all(torch.equal(weights[name], tensor) for name, tensor in training.model.state_dict().items())
    assert not embeddings(training.model)._forward_hooks
    assert all(parameter.requires_grad and parameter.grad is not None for parameter in training.parameters)
    assert not any(p.grad is not None for p in training.model.parameters() if not p.requires_grad)


@pytest.mark.parametrize("attack", ATTACKS)
def test_micro_batches_add_up_to_the_batch(model, tmp_path, attack):
    whole, parts = (
        prepared(f'full + adversarial("{attack}"){rest}', model, tmp_path) for rest in ("", " + accumulate(3)")
    )
    for training in (whole, parts):
        training.model.eval()
    wanted = gradient(whole)
    assert torch.linalg.vector_norm(gradient(parts) - wanted) < 1e-4 * torch.linalg.vector_norm(wanted)


def test_an_example_whose_gradient_is_no_number_stays_where_it_is(tiny_bert, tmp_path):
    training = prepared('full + adversarial("fgm")', tiny_bert, tmp_path)
    seen = []
    handle = embeddings(training.model).register_forward_hook(
        lambda layer, args, out: seen.append(out.detach().clone())
    )
    criterion = training.criterion
    # As where half precision overflows.
    training.criterion = lambda outputs, batch: criterion(outputs, batch) + outputs.logits[0].sum() * torch.inf
    training.gradients(training.probe, 1.0)
    handle.remove()
    moved = (seen[1] - seen[0]).flatten(1).norm(dim=1)
    assert moved[0] == 0
    assert moved[1:] == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('full + adversarial("fgm", steps=3)', "leave out steps"),
        ('full + adversarial("fgm", alpha=0.1)', "leave out steps"),
        ('full + adversarial("pgd") + compile', "leave out compile"),
    ],
)
def test_what_cannot_work_is_refused(text, says):
    (stage,) = recipe.parse(text).stages
    adversarial = next(modifier for modifier in stage.modifiers if modifier.name == "adversarial")
    (problem,) = refusals.problems(adversarial, PlanContext((), stage, HERE, Classification, "bert", 8, 10))
    assert says in problem


@pytest.mark.parametrize(
    "text",
    [
        'lora(r=2) + adversarial("pgd") + accumulate(2) + mixed_precision',
        'full + adversarial("fgm") + neftune + mixed_precision("fp16")',
        'full + adversarial("freelb") + gradient_checkpointing + gradient_clip(0.1)',
        'prompt(3) + adversarial("fgm") + accumulate(2)',
    ],
)
def test_with_others(model, tmp_path, text):
    status, reason, _ = jobs.run(text, model, tmp_path)
    assert status == "ok", reason


def test_on_a_language_model(tiny_llama, tmp_path):
    status, reason, _ = jobs.run(
        'full + adversarial("fgm") + accumulate(2)', tiny_llama, tmp_path, task=jobs.prose(tmp_path)
    )
    assert status == "ok", reason
