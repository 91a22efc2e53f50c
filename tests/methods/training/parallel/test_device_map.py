"""The map by accelerate, which needs no GPU, and trainings on GPUs that are not there."""

import dataclasses
import io
import shutil
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from bench.execute.forkserver import prepared
from bench.measure.clock import WallClock
from bench.measure.memory import storage_bytes
from bench.models.architecture import blocks
from bench.models.registry import open_model
from bench.recipe import recipe
from bench.recipe.errors import Refusal
from bench.stage.loop import Training
from bench.stage.stage import seed_everything
from bench.stage.work import Work
from bench.tasks.registry import open_task
from methods.training.parallel import device_map
from methods.training.parallel.device_map import DeviceMap
from tests import jobs, pretend
from tests.subjects import HERE, make_plan

TWO = dataclasses.replace(HERE, device="cuda", gpus=2)
THREE = dataclasses.replace(HERE, device="cuda", gpus=3)


def refusals(monkeypatch, text, machine):
    (cell,) = make_plan(monkeypatch, {"x": text}, machine).cells
    return cell.refused


@pytest.mark.parametrize(
    "text",
    [
        'full + device_map("auto")',
        'lora(r=2) + device_map + accumulate(2) + gradient_checkpointing + mixed_precision("fp16")',
        'full + device_map("sequential") + optimizer("adafactor") + weight_decay(0.1)',
        "magnitude(0.5) >> full + device_map",
        "prune_ffn(0.5) >> head + device_map",
    ],
)
def test_what_two_gpus_can_do(monkeypatch, text):
    assert refusals(monkeypatch, text, TWO) == ()


@pytest.mark.parametrize(
    ("text", "machine", "says"),
    [
        ("full + device_map", HERE, "it takes 2 GPUs, and stages run on the CPU here"),
        ("full + device_map", dataclasses.replace(HERE, gpus=2), "stages run on the CPU here"),
        ("full + device_map(n=3)", TWO, "it takes 3 GPUs, and this machine shows 2"),
        (
            "full + device_map + data_parallel(2)",
            TWO,
            "one process holds all the GPUs, and data_parallel needs several",
        ),
        (
            "full + device_map + fully_sharded(2)",
            TWO,
            "one process holds all the GPUs, and fully_sharded needs several",
        ),
        ("full + device_map + tensor_parallel(2)", TWO, "one process holds all the GPUs"),
        ('full + device_map("balanced_low_0")', TWO, "take n=3, or another strategy"),
        ("nf4 >> lora(r=2) + device_map", TWO, "packed weights"),
        ("adalora(init_r=4, target_r=2) + device_map", TWO, "adalora is not known to be right on weights of several"),
        ('full + contrastive("simcse") + device_map', TWO, "contrastive is not known to be right"),
        ("prefix(3) + device_map", TWO, "prefix is not known to be right"),
        ("sparsegpt(0.5) >> full + device_map", TWO, "sparsegpt is not known to be right"),
    ],
)
def test_what_is_refused(monkeypatch, text, machine, says):
    found = refusals(monkeypatch, text, machine)
    assert any(reason.startswith("device_map: ") and says in reason for reason in found), found


def test_a_node_of_one_process_takes_several_gpus(monkeypatch):
    plan = make_plan(monkeypatch, {"x": "full + device_map(n=3) >> full", "y": "full + data_parallel(2)"}, THREE)
    assert [(node.processes, node.gpus) for node in plan.nodes.values()] == [(1, 3), (1, 1), (2, 2)]


def bert(layers=12):
    import transformers

    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=100, max_position_embeddings=32, num_hidden_layers=layers, **sizes)
    return transformers.BertForSequenceClassification(config)


def room(n, size=2**30):
    return dict.fromkeys(range(n), size)


def place_of(name, places):
    return next(place for prefix, place in places.items() if not prefix or f"{name}.".startswith(f"{prefix}."))


@pytest.mark.parametrize("n", [2, 3, 4])
def test_blocks_are_placed_whole_in_order_and_balanced_by_bytes(n):
    model = bert()
    places = DeviceMap(n=n)._map(model, room(n))
    of_block = [
        {place_of(f"bert.encoder.layer.{number}.{name}", places) for name, _ in block.named_parameters()}
        for number, block in enumerate(blocks(model))
    ]
    assert all(len(found) == 1 for found in of_block)
    order = [found for (found,) in of_block]
    assert order == sorted(order)
    held = dict.fromkeys(range(n), 0)
    for name, parameter in model.named_parameters():
        held[place_of(name, places)] += parameter.nbytes
    # accelerate gives each GPU but the last an n-th and room for 1.25 of what it may not cut, and keeps such a room free on
    # the first, which the last then gets.
    block = storage_bytes(blocks(model)[0])
    assert max(held.values()) <= storage_bytes(model) / n + 2.25 * block
    assert min(held.values()) > 0


def test_strategies():
    model = bert()
    assert set(DeviceMap("balanced", n=3)._map(model, room(3)).values()) == {0, 1, 2}
    assert DeviceMap("auto", n=3)._map(model, room(3)) == DeviceMap("balanced", n=3)._map(model, room(3))
    assert set(DeviceMap("balanced_low_0", n=3)._map(model, room(3)).values()) == {1, 2}
    # The first is filled as far as there is room for one block more.
    block = storage_bytes(blocks(model)[0])
    size = storage_bytes(model.bert.embeddings) + 5 * block + 100
    filled = DeviceMap("sequential")._map(model, {0: size, 1: 2**30})
    assert [place_of(f"bert.encoder.layer.{number}", filled) for number in range(12)] == [0] * 4 + [1] * 8


def test_what_only_the_model_shows():
    model = bert()
    with pytest.raises(Refusal, match='device_map: "sequential" puts the whole model on 1 of 2 GPUs; leave it out'):
        DeviceMap("sequential")._map(model, room(2))
    with pytest.raises(Refusal, match="on 2 of 4 GPUs; take n=2"):
        DeviceMap("sequential", n=4)._map(model, room(4, storage_bytes(model) * 2 // 3))
    with pytest.raises(Refusal, match="the model does not fit on 2 GPUs; take a larger n"):
        DeviceMap()._map(model, room(2, storage_bytes(model) // 4))


# -- trainings


def six_blocks(folder, target):
    """The same tiny model with six blocks."""
    import transformers

    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))
    config = transformers.AutoConfig.from_pretrained(folder, num_hidden_layers=6)
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(target)
    return target


def trained(text, model_dir, folder, device):
    """Losses, claims of all methods, and the model; stages of a recipe, one after the other."""
    one = jobs.job(text, model_dir, folder, budget={"steps": 4})
    task = open_task(one.task, folder)
    seed_everything(0)
    model, tokenizer = open_model(one.model, folder).load(*task.model_options())
    stages = recipe.parse(one.recipe).stages
    common = {
        "model": model.to(device), "tokenizer": tokenizer, "task": task, "budget": one.budget, "seed": 1, "base": folder,
        "machine": dataclasses.replace(one.machine, device=device),
    }  # fmt: skip
    for number, stage in enumerate(stages[:-1]):
        stage.main.apply(Work(stage=stage, before=stages[:number], **common))
    training = Training(stage=stages[-1], before=stages[:-1], clock=WallClock(), **common)
    before = training.snapshot()
    training.prepare()
    seed_everything(2)
    training.run()
    claims = [(method.name, claim) for method in stages[-1].methods for claim in method.evidence(before, training)]
    claims += [(kept.name, claim) for kept in training.carried for claim in kept.retention_evidence(before, training)]
    training.optimizer.zero_grad(set_to_none=True)
    training.finish()
    claims += [(method.name, claim) for method in training.methods for claim in method.removal_evidence(training)]
    return [float(loss) for loss in training.losses], claims, training.model


def on_gpus(connection: Connection, texts: list[str], where: str, model_dir: Path, folder: Path, without: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    answers = []
    plain = [trained(text, model_dir, folder, "cpu")[0] for text in texts]
    pretend.start()
    device_map._gpu = pretend.gpu
    device_map._room = lambda model, n: room(n)
    if without:
        setattr(DeviceMap, without, lambda self, training: None)
    for text, alone in zip(texts, plain, strict=True):
        try:
            losses, claims, model = trained(f"{text} + {where}", model_dir, folder, pretend.KIND)
            kept = io.BytesIO()
            if not without:
                torch.save(model.to("cpu"), kept)
                model = torch.load(io.BytesIO(kept.getvalue()), weights_only=False)
            answers.append((alone, losses, claims, {name for module in model.modules() for name in vars(module)}))
        except Exception as error:
            answers.append(f"{type(error).__name__}: {error}")
    connection.send(answers)


def run(texts, where, model_dir, folder, without=""):
    context = prepared()
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=on_gpus, args=(theirs, texts, where, model_dir, folder, without))
    process.start()
    theirs.close()
    try:
        assert ours.poll(300), "it hangs"
        return ours.recv()
    finally:
        process.kill()
        process.join()


def check(answers):
    for answer in answers:
        assert not isinstance(answer, str), answer
        alone, losses, claims, attributes = answer
        assert losses == pytest.approx(alone, abs=1e-5)
        assert [claim for _, claim in claims if not claim.holds] == []
        assert sum(name == "device_map" for name, _ in claims) == 4
        assert not {"forward", "to", "_hf_hook", "_old_forward", "hf_device_map"} & attributes


def test_two_gpus_learn_what_one_does(tiny_bert, tmp_path):
    answers = run(["full + dropout(0.0)"], "device_map", tiny_bert, tmp_path)
    check(answers)
    ((_, _, claims, _),) = answers
    assert ("blocks on 1, 1") in next(claim.seen for name, claim in claims if name == "device_map")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_three_gpus_learn_what_one_does(kind, tiny_bert, tiny_llama, tmp_path):
    model_dir = six_blocks(tiny_bert if kind == "bert" else tiny_llama, tmp_path / "six")
    dropped = ["full + gradient_checkpointing", "lora(r=2, dropout=0.2) + gradient_checkpointing", "full + rdrop(0.5)"]
    others = [
        "full", "head(lr=0.1)", "top_layers(2)", "lora(r=2)", "full + accumulate(2)", "full + gradient_checkpointing", "full + neftune",
        "full + gradient_clip(0.1)", "full + label_smoothing(0.1)", 'full + schedule("linear", warmup=0.1)',
        "full + weight_decay(0.1)", 'full + optimizer("sgd", lr=0.05)', 'full + optimizer("adafactor")',
        'full + optimizer("lion")', 'full + optimizer("muon")', "magnitude(0.5) >> full", "wanda(0.5, samples=16) >> full",
        "lora(r=2) + accumulate(2) + gradient_checkpointing + gradient_clip(0.1)",
        *(["bitfit(lr=0.01)"] if kind == "bert" else []),
    ]  # fmt: skip
    check(run([f"{text} + dropout(0.0)" for text in others], "device_map(n=3)", model_dir, tmp_path))
    # Each GPU draws its own dropout, so that the losses are others; but checkpoints draw it again as it was.
    for answer in run([f"{text} + dropout(0.3)" for text in dropped], "device_map(n=3)", model_dir, tmp_path):
        assert not isinstance(answer, str), answer
        assert [claim for _, claim in answer[2] if not claim.holds] == []


@pytest.mark.slow
def test_the_first_gpu_can_stay_free(tiny_bert, tmp_path):
    model_dir = six_blocks(tiny_bert, tmp_path / "six")
    answers = run(["full + dropout(0.0)"], 'device_map("balanced_low_0", n=3)', model_dir, tmp_path)
    check(answers)
    (seen, *_) = [claim.seen for name, claim in answers[0][2] if name == "device_map"]
    assert "blocks on 1, 1, 1, 2, 2, 2" in seen


@pytest.mark.parametrize(
    ("hook", "says"), [("on_model", "the weights lie on 2 GPUs"), ("on_end", "the model is whole again")]
)
def test_a_hook_that_does_nothing_is_seen(hook, says, tiny_bert, tmp_path):
    ((_, _, claims, _),) = run(["full + dropout(0.0)"], "device_map", tiny_bert, tmp_path, hook)
    false = [claim.text for name, claim in claims if name == "device_map" and not claim.holds]
    assert any(text.startswith(says) for text in false), false


def test_tensors_of_two_gpus_do_not_mix(tiny_bert, tmp_path):
    (answer,) = run(['full + contrastive("simcse")'], "device_map", tiny_bert, tmp_path)
    assert "Expected all tensors to be on the same device" in answer
