"""Compiled training against the same in eager code, and what planning says."""

import dataclasses
import shutil
from collections import Counter

import pytest
import torch

from bench.machine import machine
from bench.plan import refusals
from methods.training.optimization import compile as module
from tests.trainings import gradient, make, prepared

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
    graphs = compiled.state["compile"]
    assert len(graphs) == 1 + 6
    assert graphs[0] == graphs[-1] > (0, 0)
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
    assert not all(claim.holds for claim in compile.removal_evidence(training))
    graphs, recorded = training.state["compile"][-1]
    training.state["compile"][-1] = graphs + 1, recorded  # a graph that a step waited for
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
def test_refusals(text, found, reason, plan_context, monkeypatch):
    monkeypatch.setenv("CXX", "no-such")
    monkeypatch.setattr(shutil, "which", lambda name: found)
    at = plan_context(text, machine=CPU)
    (problem,) = refusals.problems(at.stage.modifiers[0], at)
    assert problem.startswith(reason)


GPU = dataclasses.replace(CPU, device="cuda", gpus=1)


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
@pytest.mark.parametrize(
    "unsafe",
    ["accumulate(2)", "rdrop(0.5)", 'adversarial("fgm")', 'contrastive("simcse")', 'augment("eda")', "ensemble(2)"],
)
def test_cuda_graphs_are_refused_where_a_step_runs_several_passes_or_shapes_are_not_known(mode, unsafe, plan_context):
    at = plan_context(f'full + compile("{mode}") + {unsafe}', machine=GPU)
    (compile,) = (method for method in at.stage.modifiers if method.name == "compile")
    (problem,) = refusals.problems(compile, at)
    assert problem.startswith(
        f'mode "{mode}" records CUDA graphs, of which each pass overwrites what the one before it'
    )
    assert f"and {unsafe.partition('(')[0]} may run" in problem
    assert problem.endswith("leave the mode out")


@pytest.mark.parametrize(
    "text",
    [
        'full + compile("reduce-overhead") + mixed_precision("fp16") + gradient_clip(0.1) + weight_decay(0.1)',
        'adalora(init_r=4, target_r=2) + compile("max-autotune")',
        "full + compile + accumulate(2)",
    ],
)
def test_cuda_graphs_are_recorded_where_a_step_is_one_pass(text, plan_context):
    at = plan_context(text, machine=GPU)
    (compile,) = (method for method in at.stage.modifiers if method.name == "compile")
    assert not [*refusals.problems(compile, at)]


def recording(model):
    """A model for which torch says that it records a graph in the second pass of each shape, as with CUDA graphs."""
    from torch._dynamo.callback import CallbackTrigger, callback_handler

    passes = Counter()

    def note(module, args, options):
        passes[options["input_ids"].shape] += module.training
        if passes[options["input_ids"].shape] == 2 and module.training:
            with callback_handler.install_callbacks(CallbackTrigger.CUDAGRAPH_RECORDING, "0"):
                pass

    model.register_forward_pre_hook(note, with_kwargs=True)
    return passes


@pytest.mark.parametrize(("passes", "holds"), [(3, True), (1, False)])
def test_the_graphs_of_all_shapes_are_recorded_before_the_clock(passes, holds, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr(module._compiler, "records", lambda device, mode: True)
    monkeypatch.setattr(module, "_PASSES", passes)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: None)  # recorded is on a GPU alone
    training = make("full + compile", tiny_bert, tmp_path, steps=24, batch_size=4)
    seen = recording(training.model)
    training.prepare()
    every = {batch.inputs["input_ids"].shape for batch, _ in zip(training.batches(), range(24), strict=False)}
    assert len(every) > 1
    assert seen == dict.fromkeys(every, passes)
    training.run()
    (compile,) = training.stage.modifiers
    found = [claim for claim in compile.evidence(None, training) if "CUDA graphs" in claim.text]
    assert [claim.holds for claim in found] == [holds], (found, training.state["compile"])
    if holds:
        assert found[0].seen == f"{len(every)} graphs, 0 of them inside the clock"


def test_without_a_recorded_graph_the_claim_fails():
    assert not module._compiler.recorded(None, 0).holds
    assert not module._compiler.recorded(module._compiler.Recordings(), 0).holds
