"""Compiled training against the same in eager code, and what planning says."""

import shutil

import pytest
import torch

from bench import machine
from methods.training import compile as module
from tests.trainings import gradient, prepared

CPU = machine.look("cpu", 2)


@pytest.mark.slow
def test_losses_are_those_of_eager_code_and_no_graph_is_made_after_the_first_step(model, tmp_path):
    plain, compiled = (prepared(f"full + dropout(0.0){text}", model, tmp_path) for text in ("", " + compile"))
    assert compiled.figures["compile_seconds"] > 0
    assert "compile_seconds" not in plain.figures
    torch.testing.assert_close(gradient(compiled), gradient(plain), rtol=1e-3, atol=1e-6)
    for training in (plain, compiled):
        training.run()
    torch.testing.assert_close(torch.stack(compiled.losses), torch.stack(plain.losses), rtol=1e-4, atol=1e-5)
    graphs = compiled.notes["compile"]
    assert len(graphs) == 1 + 6
    assert graphs[0] == graphs[-1] > 0
    compiled.finish()
    assert all(part._compiled_call_impl is None for part in compiled.model.modules())


@pytest.mark.slow
def test_code_that_is_not_compiled_is_found_out(tiny_bert, tmp_path):
    training = prepared("full + dropout(0.0) + compile", tiny_bert, tmp_path)
    training.run()
    _, compile = sorted(training.stage.modifiers, key=lambda method: method.order)

    def held():
        with torch.compiler.set_stance("force_eager"):
            return [claim.holds for claim in compile.evidence(None, training)]

    assert held() == [True, True, True]
    assert not all(claim.holds for claim in compile.gone(training))
    training.notes["compile"][-1] += 1  # a graph that a step waited for
    assert held() == [True, True, False]
    training.model._compiled_call_impl = None
    assert held() == [False, True, False]


def test_batches_of_all_lengths_are_gone_through_first(tiny_bert, tmp_path):
    training = prepared("full", tiny_bert, tmp_path, steps=40, batch_size=4)
    lengths = [max(batch.lengths) for batch in module._shapes(training)]
    every = {max(batch.lengths) for batch, _ in zip(training.batches(), range(40), strict=False)}
    assert lengths == sorted(set(lengths))
    assert {lengths[0], lengths[-1]} == {min(every), max(every)}
    assert len(lengths) == min(len(every), module._SHAPES)


@pytest.mark.parametrize(
    ("text", "found", "reason"),
    [
        ("full + compile", None, "it builds its kernels with a C++ compiler, and there is no `no-such`"),
        ('full + compile("reduce-overhead")', "/usr/bin/c++", 'mode "reduce-overhead" is CUDA graphs'),
    ],
)
def test_refusals(text, found, reason, place, monkeypatch):
    monkeypatch.setenv("CXX", "no-such")
    monkeypatch.setattr(shutil, "which", lambda name: found)
    at = place(text, machine=CPU)
    (problem,) = at.stage.modifiers[0].problems(at)
    assert problem.startswith(reason)
