"""NEFTune against the formula, and what it leaves behind."""

import math
import pickle

import pytest
import torch

from bench.models.architecture import embeddings
from bench.models.modes import evaluating
from bench.testing import jobs
from tests.trainings import no_dropout, prepared


@pytest.fixture(params=["tiny_bert", "tiny_llama"])
def model(request):
    return request.getfixturevalue(request.param)


def embedded(training):
    """What the embedding layer gives in one pass, and what it gives by itself."""
    seen = []
    handle = embeddings(training.model).register_forward_hook(
        lambda layer, args, out: seen.append(out.detach().clone())
    )
    training.loss(training.probe)
    handle.remove()
    (noisy,) = seen
    return noisy, embeddings(training.model)(training.probe.inputs["input_ids"]).detach()


@pytest.mark.parametrize("alpha", [1.0, 5.0])
def test_noise_is_uniform_within_the_papers_bound(model, tmp_path, alpha):
    noisy, clean = embedded(prepared(f"full + neftune({alpha})", model, tmp_path))
    _, length, width = clean.shape
    bound = alpha / math.sqrt(length * width)
    noise = noisy - clean
    assert float(noise.abs().max()) == pytest.approx(bound, rel=0.01)
    assert float(noise.abs().max()) <= bound * (1 + 1e-5)
    # Uniform: mean 0, variance a third of the bound's square. Some 4,000 draws.
    assert float(noise.mean()) == pytest.approx(0, abs=0.05 * bound)
    assert float(noise.var()) == pytest.approx(bound**2 / 3, rel=0.1)


def test_it_is_transformers_own(tiny_llama, tmp_path):
    from transformers.integrations.neftune import neftune_post_forward_hook

    training = prepared("full + neftune(5.0)", tiny_llama, tmp_path)
    torch.manual_seed(1)
    noisy, clean = embedded(training)
    layer = embeddings(training.model)
    layer.neftune_noise_alpha = 5.0
    torch.manual_seed(1)
    assert torch.equal(noisy, neftune_post_forward_hook(layer, None, clean))


def test_every_pass_draws_anew_and_evaluation_draws_nothing(model, tmp_path):
    training = no_dropout(prepared("full + neftune", model, tmp_path))
    assert not torch.equal(training.loss(training.probe), training.loss(training.probe))
    with evaluating(training.model):
        plain = no_dropout(prepared("full", model, tmp_path))
        assert torch.equal(training.loss(training.probe), plain.loss(plain.probe))


def test_nothing_stays_on_the_model(model, tmp_path):
    training = prepared("full + neftune", model, tmp_path)
    training.gradients(training.probe, 1.0)
    assert not embeddings(training.model)._forward_hooks
    pickle.dumps(training.model)


@pytest.mark.parametrize(
    "text", ["lora(r=2) + neftune + accumulate(2)", "full + neftune + mixed_precision + ensemble(2)"]
)
def test_with_others(model, tmp_path, text):
    status, reason, _ = jobs.run(text, model, tmp_path)
    assert status == "ok", reason
