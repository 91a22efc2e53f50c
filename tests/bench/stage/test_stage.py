"""One stage after the other on a tiny model, in this process."""

import weakref
from types import SimpleNamespace

import numpy
import pytest
import torch

from bench.recipe import registry
from bench.stage import checkpoint, stage
from bench.stage.evidence import Claim
from bench.stage.loop import Training
from bench.stage.stage import seed_everything
from bench.stage.work import Work
from bench.suite.suite import SEEDS
from bench.tasks.base import Quality
from bench.tasks.kinds.classification import Classification
from bench.tasks.registry import open_task
from bench.testing import jobs
from methods.training.full_and_partial.full import Full


def test_a_stage_measures_everything_it_is_asked_for(tiny_bert, tmp_path):
    status, reason, (record,) = jobs.run("full", tiny_bert, tmp_path)
    assert (status, reason) == ("ok", "")
    training = record["training"]
    assert len(training["step_seconds"]) == len(training["losses"]) == len(training["tokens"]) == 6
    assert training["samples"] == [8] * 6
    assert training["warmup"] == 2
    assert record["parameters"]["total"] == training["trainable"] == training["gradient_bytes"] // 4
    # Adam: two moments of float32 a weight, and a float32 step count a tensor.
    assert 0 <= training["optimizer_bytes"] - 8 * training["trainable"] < 4 * 100
    assert record["weight_bytes"] >= 4 * training["trainable"]
    assert training["step_flops"] > 0
    assert training["activation_bytes"] > 0
    assert set(record["quality"]["metrics"]) == set(Classification.metrics)
    assert record["size"]["bytes"] >= 4 * training["trainable"]


def test_the_same_seed_gives_the_same_curve_and_another_seed_another(tiny_bert, tmp_path):
    runs = [jobs.run("full", tiny_bert, tmp_path, seed=seed)[2][0] for seed in (0, 0, 1)]
    curves = [record["training"]["losses"] for record in runs]
    assert curves[0] == curves[1] != curves[2]
    assert runs[0]["quality"] == runs[1]["quality"]


def test_other_seeds_draw_otherwise_up_to_the_bound_that_suites_have_and_no_further():
    def draws(seed, depth=1):
        seed_everything(seed * 1000 + depth)
        generator = torch.Generator().manual_seed(seed * 1000 + depth)
        return (
            tuple(torch.rand(4).tolist()),
            tuple(torch.randperm(99, generator=generator).tolist()),
            numpy.random.rand(),
        )

    seeds = [0, 1, 2, 4_294_967, 2**28, SEEDS - 2, SEEDS - 1]
    for each in zip(*(draws(seed, depth) for seed in seeds for depth in (1, 2, 9)), strict=True):
        assert len(set(each)) == 3 * len(seeds)
    assert draws(SEEDS) == draws(0)
    assert draws(SEEDS + 7) == draws(7)


def test_recipes_that_share_a_seed_start_alike(tiny_bert, tmp_path):
    first = [jobs.run(text, tiny_bert, tmp_path)[2][0]["training"] for text in ("full", "lora(r=2)", "head")]
    assert len({record["losses"][0] for record in first}) == 1
    assert len({tuple(record["tokens"]) for record in first}) == 1


def test_healing_does_not_repeat_the_order_of_the_first_training(tiny_bert, tmp_path):
    _, _, records = jobs.run("full >> full", tiny_bert, tmp_path)
    assert records[0]["training"]["tokens"] != records[1]["training"]["tokens"]


def test_training_never_sees_test_items_and_evaluation_no_others(tiny_bert, tmp_path, monkeypatch):
    seen = []
    real = Classification.batches

    def spy(self, split, *args, **kwargs):
        seen.append((split, kwargs.get("generator") is not None))
        return real(self, split, *args, **kwargs)

    monkeypatch.setattr(Classification, "batches", spy)
    jobs.run("full", tiny_bert, tmp_path)
    assert {split for split, shuffled in seen if shuffled} == {"train"}
    task = open_task(jobs.table(tmp_path), tmp_path)
    assert not set(task.texts("train")) & set(task.texts("test"))
    assert task.texts("test")


@pytest.mark.parametrize("text", ["full >> half", "full >> prune_ffn(0.5) >> full >> half"])
def test_answers_that_were_kept_are_as_good_as_the_model_that_gave_them(tiny_bert, tmp_path, monkeypatch, text):
    loaded = []
    real = stage.uncompressed_model
    monkeypatch.setattr(stage, "uncompressed_model", lambda *given: loaded.append(given) or real(*given))
    kept = [record["quality"] for record in jobs.run(text, tiny_bert, tmp_path, measure={"latency": []})[2]]
    first, *compressed = range(len(kept))
    assert len(loaded) == 1  # by the stage that nothing compressed, which is given none
    loaded.clear()
    monkeypatch.setattr(checkpoint, "answers", lambda file: [])
    asked = [record["quality"] for record in jobs.run(text, tiny_bert, tmp_path, measure={"latency": []})[2]]
    assert len(loaded) == len(asked)
    assert kept == asked
    assert "agreement" not in kept[first]["metrics"]
    assert all("agreement" in kept[depth]["metrics"] for depth in compressed)


def test_measures_can_be_turned_off(tiny_bert, tmp_path):
    off = {"quality": False, "memory": False, "flops": False, "size": False, "latency": []}
    _, _, (record,) = jobs.run("full", tiny_bert, tmp_path, measure=off)
    assert not {"quality", "size"} & set(record)
    assert not {"peak_bytes", "step_flops", "gradient_bytes"} & set(record["training"])


@pytest.mark.parametrize("measure", [{}, {"memory": False}])
def test_no_tensor_without_numbers_is_left_where_a_hook_keeps_what_it_saw(tiny_bert, tmp_path, monkeypatch, measure):
    seen = []

    def keep(self, training):
        def note(module, args, output):
            kept[:] = [output.logits]

        kept, hook = [], training.model.register_forward_hook(note)
        training.state["seen"] = kept, hook

    def look(self, before, work):
        kept, hook = work.state["seen"]
        hook.remove()
        seen.extend(map(type, kept))
        return [Claim("it was looked at", True, "")]

    monkeypatch.setattr(Full, "on_start", keep)
    monkeypatch.setattr(Full, "evidence", look)
    monkeypatch.setattr(Work, "probe_logits", lambda self: torch.zeros(1, 1))
    assert jobs.run("full", tiny_bert, tmp_path, measure={"latency": [], **measure})[0] == "ok"
    assert seen == [torch.Tensor]


def test_a_diverged_training_says_so(tiny_bert, tmp_path):
    status, reason, _ = jobs.run("full(lr=1e30)", tiny_bert, tmp_path)
    assert status == "diverged"
    assert "step" in reason


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_running_out_of_memory_is_oom(tiny_bert, tmp_path, monkeypatch, error):
    def raising(self, training):
        raise error

    monkeypatch.setattr(Full, "on_model", raising)
    assert jobs.run("full", tiny_bert, tmp_path)[0] == "oom"


MEASURES = [
    ("bench.stage.stage._peak", "train_peak_bytes"),
    ("bench.measure.memory.optimizer_bytes", "optimizer_bytes"),
    ("bench.measure.memory.gradient_bytes", "gradient_bytes"),
    ("bench.measure.memory.saved_activations", "activation_bytes gradient_bytes"),
    ("bench.measure.flops.count", "step_flops"),
    ("bench.tasks.kinds.classification.Classification.evaluate", "quality"),
    ("bench.measure.memory.parameter_counts", "parameters nonzero_parameters"),
    ("bench.measure.size.on_disk", "size_on_disk"),
]


@pytest.mark.parametrize(("broken", "names"), MEASURES)
def test_a_measure_that_fails_is_absent_and_the_record_keeps_the_rest(tiny_bert, tmp_path, monkeypatch, broken, names):
    _, _, (whole,) = jobs.run("full", tiny_bert, tmp_path)

    def failing(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 69.00 GiB")

    monkeypatch.setattr(broken, failing)
    status, reason, (record,) = jobs.run("full", tiny_bert, tmp_path, absent=True)
    assert (status, reason) == ("ok", "")
    said = "out of memory: CUDA out of memory. Tried to allocate 69.00 GiB"
    assert record["absent"] == dict.fromkeys(names.split(), said)
    keys = {"train_peak_bytes": "peak_bytes", "nonzero_parameters": "parameters", "size_on_disk": "size"}
    gone = {keys.get(name, name) for name in names.split()}
    assert {*whole, *whole["training"]} - {*record, *record["training"]} == gone
    assert record["training"]["losses"] == whole["training"]["losses"]
    assert checkpoint.load(tmp_path / "checkpoints" / "node0.pt")


def test_what_was_measured_before_an_error_is_kept(tiny_bert, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    status, reason, (record,) = jobs.run("full", tiny_bert, tmp_path)
    assert (status, reason) == ("failed", "the disk is full: [Errno 28] No space left on device")
    assert len(record["training"]["losses"]) == 6
    assert record["quality"]["metrics"]


def test_a_metric_that_the_task_does_not_declare_fails_the_stage_and_is_named(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr(Classification, "evaluate", lambda *_, **__: Quality({"accuracy": 1.0, "novel": 2.0}))
    status, reason, (record,) = jobs.run("full", tiny_bert, tmp_path)
    assert status == "failed"
    assert (
        "the task data returns `novel` without declaring it: name it in `metrics` of Classification, and register"
        in reason
    )
    assert record["quality"]["metrics"]["novel"] == 2.0


def test_a_figure_that_no_method_declares_fails_the_stage_and_is_named(tiny_bert, tmp_path, monkeypatch):
    def on_start(self, training):
        training.figures["novel"] = 1.0

    monkeypatch.setattr(registry.methods()["full"], "on_start", on_start)
    status, reason, _ = jobs.run("full", tiny_bert, tmp_path)
    assert status == "failed"
    assert "a method of full adds the figure `novel` without declaring it: name it in its `figures`" in reason


def test_a_transform_adds_the_figures_that_it_declares(tiny_bert, tmp_path, monkeypatch):
    half = registry.methods()["half"]
    apply = half.apply

    def counted(self, work):
        apply(self, work)
        work.figures["novel"] = 3.0

    monkeypatch.setattr(half, "apply", counted)
    monkeypatch.setattr(half, "figures", ("novel",))
    status, reason, (record,) = jobs.run('half("bf16")', tiny_bert, tmp_path)
    assert status == "ok", reason
    assert record["transform"]["figures"] == {"novel": 3.0}


def test_what_trained_is_let_go_of_before_evaluation(tiny_bert, tmp_path, monkeypatch):
    real, optimizers, alive = Training._optimizer, [], []

    def make(self):
        found = real(self)
        optimizers.append(weakref.ref(found))
        return found

    def evaluate(self, *args, **options):
        alive.append(optimizers[0]())
        return Quality({"accuracy": 1.0})

    monkeypatch.setattr(Training, "_optimizer", make)
    monkeypatch.setattr(Classification, "evaluate", evaluate)
    assert jobs.run("full", tiny_bert, tmp_path)[0] == "ok"
    assert alive == [None]


def test_the_cards_of_a_stage_are_known_by_what_tells_them_apart(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(name="NVIDIA H100", uuid=f"aaaa-{index}")
    )
    assert stage._cards() == [{"name": "NVIDIA H100", "uuid": f"aaaa-{index}"} for index in (0, 1)]


def test_pruned_and_healed_then_quantized_goes_through(tiny_bert, tmp_path):
    status, reason, records = jobs.run(
        "full >> prune_ffn(0.5) >> full(share=0.5) >> torch_int8_dynamic", tiny_bert, tmp_path
    )
    assert status == "ok", reason
    counts = [record["parameters"]["total"] for record in records]
    # Two blocks; of each, half of 64 neurons with 32 weights in, a bias and 32 weights out.
    assert counts[0] - counts[1] == 2 * 32 * (32 + 1 + 32)
    assert counts[1] == counts[2]
    assert records[3]["weight_bytes"] < records[2]["weight_bytes"]


def test_a_compressed_model_is_scored_beside_the_one_it_was_made_from(tiny_bert, tmp_path):
    status, reason, records = jobs.run("full >> magnitude(0.9) >> full(share=0.5)", tiny_bert, tmp_path)
    assert status == "ok", reason
    task = open_task(jobs.table(tmp_path), tmp_path)
    models = [checkpoint.load(tmp_path / "checkpoints" / f"node{depth}.pt") for depth in range(3)]
    ((_, tokenizer), *_) = models
    (batch,) = task.batches("test", tokenizer, batch_size=1000, max_length=32)
    with torch.no_grad():
        first, *others = (model.eval()(**batch.inputs).logits.double().softmax(-1) for model, _ in models)
    assert "agreement" not in records[0]["quality"]["metrics"]
    for record, ours in zip(records[1:], others, strict=True):
        found = record["quality"]["metrics"]
        right, was = ours.argmax(-1) == batch.labels, first.argmax(-1) == batch.labels
        assert found["agreement"] == pytest.approx(float((ours.argmax(-1) == first.argmax(-1)).float().mean()))
        assert (found["won"], found["lost"]) == (int((right & ~was).sum()), int((was & ~right).sum()))
        divergence = float((first * (first / ours).log()).sum(-1).mean())
        assert found["kl_divergence"] == pytest.approx(divergence, rel=1e-3, abs=1e-8)
        assert found["kl_divergence"] > 0


def test_a_model_that_was_not_trained_before_it_was_compressed_had_no_answers_to_keep(tiny_bert, tmp_path):
    _, _, (alone, trained) = jobs.run("half >> full", tiny_bert, tmp_path)
    assert alone["quality"]["metrics"]["agreement"] > 0.9  # of the same untrained head
    assert "agreement" not in trained["quality"]["metrics"]


def test_memory_of_making_a_compressed_model_holds_the_whole_one(tiny_bert, tmp_path):
    _, _, records = jobs.run("full >> magnitude(0.5)", tiny_bert, tmp_path)
    assert records[1]["transform"]["peak_bytes"] >= 0
    assert "transform" not in records[0]
