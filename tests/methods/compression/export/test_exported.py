"""onnxruntime and OpenVINO against the torch model."""

import importlib.util
import itertools
import pickle
from dataclasses import replace

import pytest
import torch

from bench.plan import plan
from bench.stage import checkpoint, serve
from bench.testing import jobs
from tests import subjects
from tests.transforms import refuted, work

HERE = [name for name in ("onnx", "openvino") if importlib.util.find_spec({"onnx": "onnxruntime"}.get(name, name))]
WITH_BF16 = replace(subjects.HERE, cpu_features=("avx512_bf16",))


@pytest.mark.slow
@pytest.mark.parametrize("method", HERE)
@pytest.mark.parametrize("model", ["tiny_bert", "tiny_llama"])
def test_it_answers_for_any_shape_and_number_of_threads_as_torch_does(method, model, request, tmp_path):
    folder = request.getfixturevalue(model)
    status, reason, _ = jobs.run(f"full >> {method}", folder, tmp_path)
    assert status == "ok", reason
    torch_model, _ = checkpoint.load(tmp_path / "checkpoints" / "node0.pt")
    ours, _ = checkpoint.load(tmp_path / "checkpoints" / "node1.pt")
    again = pickle.loads(pickle.dumps(ours))
    threads = torch.get_num_threads()
    for shape in ((1, 1), (1, 7), (3, 16), (16, 33)):
        ids = torch.randint(5, 90, shape)
        mask = torch.ones_like(ids)
        mask[-1, (shape[1] + 1) // 2 :] = 0
        with torch.no_grad():
            expected = torch_model(input_ids=ids, attention_mask=mask).logits
        for used in (1, 2):
            torch.set_num_threads(used)
            try:
                for each in (ours, again):
                    assert torch.allclose(each(input_ids=ids, attention_mask=mask).logits, expected, atol=1e-5)
            finally:
                torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("method", [f'{name}("int8")' for name in HERE])
def test_where_it_serves_the_runtime_runs_it_and_holds_it_alone(method, tiny_bert, tmp_path):
    status, reason, (record,) = jobs.run(method, tiny_bert, tmp_path)
    assert status == "ok", reason
    job = replace(jobs.job(method, tiny_bert, tmp_path), what="serve")
    measured = serve.run(job, jobs.quiet)
    assert measured["evidence"]
    assert all(claim["holds"] for claim in measured["evidence"])
    assert {entry["clock"] for entry in measured["latency"]} == {"wall", "cpu"}
    model, _ = checkpoint.load(tmp_path / "checkpoints" / "node0.pt")
    assert sum(map(len, (model.content(suffix) for suffix in model.suffixes))) == record["weight_bytes"]
    (tmp_path / "served").mkdir()
    model.serve(tmp_path / "served")
    assert sum(buffer.numel() for buffer in model.buffers()) == 0
    assert model(input_ids=torch.ones(1, 4, dtype=torch.long)).logits.shape == (1, 3)


@pytest.mark.slow
@pytest.mark.skipif("openvino" not in HERE, reason="needs openvino")
def test_the_precision_is_the_one_that_really_ran(tiny_bert, tmp_path):
    """A model compiled for bfloat16 is no float32 model, whatever it was asked for."""
    assert jobs.run("openvino", tiny_bert, tmp_path)[0] == "ok"
    model, _ = checkpoint.load(tmp_path / "checkpoints" / "node0.pt")
    assert model.precisions().keys() == {"f32"}
    changed = pickle.loads(pickle.dumps(model))
    changed.hint = "bf16"
    from methods.compression.export.openvino import OpenVino

    if changed.precisions().keys() == {"bf16"}:  # where the CPU can
        assert not OpenVino("fp32")._precision(changed).holds
    assert OpenVino("fp32")._precision(model).holds


@pytest.mark.slow
@pytest.mark.parametrize("method", HERE)
@pytest.mark.parametrize("adapter", ["lora(r=2)", "adapter", "full >> ia3"])
def test_an_adapter_is_in_the_file_beside_what_it_is_on(method, adapter, tiny_bert, tmp_path):
    status, reason, records = jobs.run(f"{adapter} >> {method}", tiny_bert, tmp_path)
    assert status == "ok", reason
    assert {path.rpartition(".")[2] for path in records[-1]["size"]["files"]} <= {"onnx", "xml", "bin", "json"}


@pytest.mark.parametrize("method", ["onnx", "openvino"])
def test_refusals(method, monkeypatch):
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: object())
    said = {
        f"prefix(4) >> {method}": "learned tokens stand before each text",
        f"torch_int8_dynamic >> {method}": "quantize in the runtime",
        f"{method} >> full": "inference only",
        f"{method} >> {method}": "inference only",
    }
    for recipe, words in said.items():
        (cell,) = subjects.make_plan(monkeypatch, {"it": recipe}).cells
        assert any(words in reason or "quantized" in reason for reason in cell.refused), cell.refused


def test_without_the_packages_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: None if "onnx" in name else object())
    (cell,) = subjects.make_plan(monkeypatch, {"it": "full >> onnx"}).cells
    assert any("pip install onnxruntime" in reason for reason in cell.refused)


def test_bfloat16_needs_a_cpu_that_has_it(monkeypatch):
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: object())
    (cell,) = subjects.make_plan(monkeypatch, {"it": 'openvino("bf16")'}).cells
    assert any("no instructions for bfloat16" in reason for reason in cell.refused)
    (cell,) = subjects.make_plan(monkeypatch, {"it": 'openvino("bf16")'}, WITH_BF16).cells
    assert not cell.refused


# -- what is in the file -----------------------------------------------------------------------------------------------

KEPT = "each weight matrix is in the file, and is what it was"
FINE = "each of them is in 8 bits, a scale for each output of a layer"


@pytest.mark.slow
@pytest.mark.parametrize("method", HERE)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_other_weights_than_those_that_there_were(method, precision, tiny_bert, tmp_path, monkeypatch):
    """Exported after they had moved a little, by little enough for the outputs to be near."""
    from methods.compression.export._shared import exported

    trace = exported.trace

    def moved(work):
        with torch.no_grad():
            for weight in work.model.parameters():
                weight.mul_(1.00002 if precision == "fp32" else 1.004)
        return trace(work)

    for module in ("_exported", f"_{method}"):
        monkeypatch.setattr(f"methods.{module}.trace", moved, raising=False)
    text = f"{method}('{precision}')" if method == "onnx" else f"{method}('{precision}', samples=16)"
    found = refuted(text, tiny_bert, tmp_path)
    assert KEPT in found, found


@pytest.mark.slow
@pytest.mark.skipif("onnx" not in HERE, reason="needs onnxruntime")
@pytest.mark.parametrize(
    "options", [{"per_channel": False}, {"reduce_range": True}, {"op_types_to_quantize": ["MatMul"]}]
)
def test_eight_bits_of_another_kind(options, tiny_bert, tmp_path, monkeypatch):
    from onnxruntime import quantization

    quantize = quantization.quantize_dynamic
    monkeypatch.setattr(quantization, "quantize_dynamic", lambda *files, **given: quantize(*files, **(given | options)))
    assert refuted('onnx("int8")', tiny_bert, tmp_path) == [FINE]


@pytest.mark.slow
@pytest.mark.skipif("openvino" not in HERE, reason="needs openvino")
def test_ranges_are_found_on_training_items_without_their_padding(tiny_bert, tmp_path, monkeypatch):
    import nncf

    seen = []
    quantize = nncf.quantize

    def look(model, calibration, **options):
        seen.extend(calibration.get_inference_data())
        return quantize(model, calibration, **options)

    monkeypatch.setattr(nncf, "quantize", look)
    done = work("openvino('int8', samples=24)", tiny_bert, tmp_path)
    expected = [
        batch.inputs["input_ids"][number, : batch.lengths[number]]
        for batch in itertools.islice(done.batches(shuffle=False), 2)
        for number in range(batch.samples)
    ][:24]
    done.stage.main.apply(done)
    assert [item["input_ids"][0].tolist() for item in seen] == [ids.tolist() for ids in expected]
    assert all(item["attention_mask"].all() for item in seen)
