"""Compiling for inference, up to the process that serves."""

import functools
from dataclasses import replace

import pytest
import torch

from bench.measure import clock, latency
from bench.stage import serve
from methods import _compiler
from methods.compression.export.compile_inference import Compiled
from tests import jobs, subjects
from tests.transforms import refuted


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ('full >> compile_inference("reduce-overhead")', "CUDA graphs"),
        ("full >> compile_inference >> full", "inference only"),
        ("full >> magnitude(0.9) >> sparse_storage >> compile_inference", "compressed rows"),
        ("full >> onnx >> compile_inference", "another runtime"),
    ],
)
def test_refusals(recipe, said, monkeypatch):
    (cell,) = subjects.make_plan(monkeypatch, {"it": recipe}).cells
    assert any(said in reason for reason in cell.refused) or "quantized" in cell.refused[0], cell.refused


def test_without_a_compiler_it_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    (cell,) = subjects.make_plan(monkeypatch, {"it": "full >> compile_inference"}).cells
    assert "no-such-compiler" in cell.refused[0]


def test_half_may_be_compiled(monkeypatch):
    (cell,) = subjects.make_plan(monkeypatch, {"it": "full >> half >> compile_inference"}).cells
    assert not cell.refused


@pytest.mark.slow
def test_what_serves_is_compiled_and_its_compile_time_is_told(tiny_bert, tmp_path, monkeypatch):
    from torch._dynamo.utils import counters

    monkeypatch.setenv(
        "TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels")
    )  # what serving sets is undone after the test
    assert jobs.run("compile_inference", tiny_bert, tmp_path)[0] == "ok"
    job = replace(jobs.job("compile_inference", tiny_bert, tmp_path), what="serve")
    measured = serve.run(job, jobs.quiet)
    assert measured["inference"]["compile_seconds"] > 0
    assert [(claim["method"], claim["holds"]) for claim in measured["evidence"]] == [("compile_inference", True)]
    # Where it is not compiled in that process, the claim fails.
    monkeypatch.setattr(Compiled, "on_serve", lambda self, model, folder: counters.clear())
    measured = serve.run(job, jobs.quiet)
    assert not measured["evidence"][0]["holds"]
    assert "compile_seconds" not in measured["inference"]


def test_nothing_compiled_takes_no_time():
    with clock.Compiling() as compiling:
        pass
    assert compiling.seconds == 0


def test_compile_time_is_what_torch_calls_back_about():
    from torch._dynamo.callback import CallbackTrigger, callback_handler

    started = len(callback_handler.start_callbacks)
    with clock.Compiling() as compiling:
        for _ in range(2):
            before = compiling.seconds
            with callback_handler.install_callbacks(CallbackTrigger.DYNAMO, "0"):
                pass
            assert compiling.seconds > before
    total = compiling.seconds
    with callback_handler.install_callbacks(CallbackTrigger.DYNAMO, "1"):
        pass
    assert compiling.seconds == total
    assert len(callback_handler.start_callbacks) == started


GPU = replace(subjects.HERE, device="cuda", gpus=1)


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_a_decoders_cache_and_cuda_graphs_do_not_go_together(mode, monkeypatch):
    monkeypatch.setattr(subjects.NoTask, "kind", "causal_lm")
    (cell,) = subjects.make_plan(monkeypatch, {"it": f'full >> compile_inference("{mode}")'}, GPU).cells
    assert any("that is the cache of keys and values" in reason for reason in cell.refused), cell.refused
    (cell,) = subjects.make_plan(monkeypatch, {"it": "full >> compile_inference"}, GPU).cells
    assert not cell.refused
    monkeypatch.setattr(subjects.NoTask, "kind", "classification")
    (cell,) = subjects.make_plan(monkeypatch, {"it": f'full >> compile_inference("{mode}")'}, GPU).cells
    assert not cell.refused


@pytest.mark.parametrize(("second", "holds"), [("warm-up", True), ("sample", False), ("never", False)])
def test_cuda_graphs_recorded_inside_the_clock_are_found_out(second, holds, tmp_path, monkeypatch):
    """Torch says that it records; a GPU is not needed for that."""
    from torch._dynamo.callback import CallbackTrigger, callback_handler

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # what serving sets is undone after the test
    monkeypatch.setattr(_compiler, "records", lambda device, mode: True)
    method, model, passes = Compiled("reduce-overhead"), torch.nn.Linear(1, 1), iter(range(10**6))
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: None)
    method.on_serve(model, tmp_path)

    def run():
        if next(passes) == {"warm-up": 1, "sample": 25, "never": -1}[second]:
            with callback_handler.install_callbacks(CallbackTrigger.CUDAGRAPH_RECORDING, "0"):
                pass

    latency.measure(latency.Pass(run), now=iter(range(10**6)).__next__, samples=40)
    (claim,) = (claim for claim in method.serving_evidence(model) if "CUDA graphs" in claim.text)
    assert claim.holds is holds, claim


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # torch's compiler, of other parts of torch, at its first import
@pytest.mark.parametrize("spoil", ["eager", "aot_eager", "head"])
def test_what_runs_eagerly_is_found_out(spoil, tiny_bert, tmp_path, monkeypatch):
    def compile_(self, model):
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        (model.classifier.compile if spoil == "head" else functools.partial(model.compile, backend=spoil))(dynamic=True)

    monkeypatch.setattr(Compiled, "_compile", compile_)
    assert refuted("compile_inference", tiny_bert, tmp_path) == [
        "each product of a forward pass is made in a graph of the compiler's"
    ]
