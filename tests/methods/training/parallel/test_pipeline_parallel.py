"""Blocks that are divided among processes one behind the other, against one process alone and against formulas."""

import pytest
import torch
import transformers

from bench.models.architecture import blocks, body
from bench.stage import checkpoint
from bench.tasks.registry import open_task
from bench.testing import jobs
from methods.training.parallel._shared.pipeline import Piece
from methods.training.parallel.pipeline_parallel import PipelineParallel
from tests.methods.training.parallel.test_divided import same, trained

HIDDEN = 32


@pytest.fixture
def make(tiny_bert, tiny_llama, tmp_path):
    """Makes a small model of a kind, with so many blocks."""

    def made(kind, layers, **extra):
        decoder = kind in ("Llama", "Mistral", "Qwen2")
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_llama if decoder else tiny_bert)
        sizes = {"hidden_size": HIDDEN, "num_attention_heads": 4, "intermediate_size": 64, **extra}
        if decoder:
            sizes["num_key_value_heads"] = 2
        config = getattr(transformers, f"{kind}Config")(
            vocab_size=len(tokenizer),
            num_hidden_layers=layers,
            max_position_embeddings=140,
            pad_token_id=tokenizer.pad_token_id,
            **sizes,
        )
        torch.manual_seed(0)
        folder = tmp_path / kind
        getattr(transformers, f"{kind}{'ForCausalLM' if decoder else 'Model'}")(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return made


def hidden(model, folder, task=None):
    """Bytes of the hidden states of the probe batch."""
    _, tokenizer = checkpoint.load(folder / "checkpoints" / "node0.pt")
    opened = open_task(task or jobs.table(folder), folder)
    probe = next(opened.batches("train", tokenizer, batch_size=8, max_length=32))
    return 4 * HIDDEN * probe.inputs["input_ids"].numel()


def sizes(model):
    """Bytes of all weights, and of what is before, in each of, and after the blocks."""
    total = 4 * sum(p.numel() for p in model.parameters())
    inside = [4 * sum(p.numel() for p in block.parameters()) for block in blocks(model)]
    return total, inside


def test_pieces_one_behind_the_other_are_the_model(make, tmp_path):
    folder = make("Electra", 5, embedding_size=16)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
    inputs = {"input_ids": torch.tensor([[2, 9, 11, 3], [2, 8, 3, 0]]), "attention_mask": torch.ones(2, 4)}

    def compute(piece, number):
        assert number == 7
        return model(**inputs).logits if piece.last else body(model)(**inputs).last_hidden_state

    pieces = [Piece(model, number, 3, compute) for number in range(3)]
    which = torch.tensor([7])
    with torch.no_grad():
        first = pieces[0](which=which)
        second = pieces[1](first, which=which)
        assert torch.equal(second, body(model)(**inputs, output_hidden_states=True).hidden_states[3])
        assert torch.equal(pieces[2](second, which=which), model(**inputs).logits)
        # The last sees nothing but what it is given.
        assert torch.equal(pieces[2](second * 0, which=which)[0], pieces[2](second * 0, which=which)[1])
    held = [piece.held for piece in pieces]
    assert set.union(*held) == {id(parameter) for parameter in model.parameters()}
    assert sum(map(len, held)) == len(set.union(*held))
    assert [sum(id(next(block.parameters())) in each for block in blocks(model)) for each in held] == [1, 2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("divided", ["pipeline_parallel(2, 4)", 'pipeline_parallel(2, 2, "gpipe")'])
@pytest.mark.parametrize(
    "text",
    [
        "full(lr=0.001) + dropout(0.0)",
        "full(lr=0.001) + dropout(0.0) + accumulate(2) + weight_decay(0.1) + gradient_clip(0.1)",
        "lora(r=2, lr=0.01) + dropout(0.0)",
        'bitfit(lr=0.01) + dropout(0.0) + label_smoothing(0.1) + schedule("linear", warmup=0.1)',
        "adapter(8, lr=0.01) + dropout(0.0) + gradient_checkpointing",
        'full + dropout(0.0) + optimizer("sgd", lr=0.05)',
        'full(lr=0.001) + dropout(0.0) + optimizer("muon")',
    ],
)
def test_the_loss_curve_is_one_processs(text, divided, tiny_bert, tmp_path):
    same(text, divided, tiny_bert, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "divided",
    [
        "pipeline_parallel(4, 4)",
        'pipeline_parallel(2, 2, "interleaved")',
        'pipeline_parallel(1, 4, "interleaved")',
        "data_parallel(2) + pipeline_parallel(2, 2)",
        'data_parallel(2) + pipeline_parallel(2, 2, "interleaved")',
    ],
)
def test_the_loss_curve_of_a_language_model(divided, make, tmp_path):
    # Micro-batches of different numbers of terms; the embeddings are the head.
    folder = make("Llama", 4, tie_word_embeddings=True)
    same("full(lr=0.001) + gradient_clip(0.1)", divided, folder, tmp_path, task=jobs.prose(tmp_path))


@pytest.mark.slow
def test_the_loss_curve_of_replicas_that_accumulate(make, tmp_path):
    folder = make("Llama", 2, tie_word_embeddings=True)
    divided = "data_parallel(2) + pipeline_parallel(2, 2)"
    same("full(lr=0.001) + accumulate(2)", divided, folder, tmp_path, task=jobs.prose(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Electra", "Mistral", "Qwen2", "Roberta"])
def test_the_loss_curve_of_other_models(kind, make, tmp_path):
    extra = {"Electra": {"embedding_size": 16}, "Qwen2": {"tie_word_embeddings": True}}
    folder = make(kind, 3, **extra.get(kind, {}))
    same("full(lr=0.003) + dropout(0.0)", "pipeline_parallel(2, 2)", folder, tmp_path)


@pytest.mark.slow
def test_a_shallower_model(make, tmp_path):
    status, reason, _ = jobs.run("drop_layers(2) >> full + pipeline_parallel(2, 2)", make("Bert", 4), tmp_path)
    assert status == "ok", reason


def test_a_process_that_would_train_nothing(make, tmp_path):
    status, reason, _ = jobs.run("top_layers(1) + pipeline_parallel(2, 2)", make("Bert", 4), tmp_path)
    assert status == "refused"
    assert "process 0 would hold nothing that top_layers trains" in reason


@pytest.mark.slow
def test_a_loss_that_only_the_last_process_sees_can_diverge(tiny_bert, tmp_path):
    status, reason, _ = jobs.run("full(lr=1e30) + pipeline_parallel(2, 2)", tiny_bert, tmp_path)
    assert (status, reason) == ("diverged", "process 1 of 2: the loss is nan at step 2 of 6")


def test_what_a_process_holds_and_sends(tiny_bert, tmp_path):
    found, model = trained("full + pipeline_parallel(2, 4)", tiny_bert, tmp_path)
    every, (first, second) = sizes(model)
    assert found["trainable"] == every / 4
    before = 4 * sum(p.numel() for p in model.bert.embeddings.parameters())
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    parts = [before + first, every - before - first]
    tensors = sum(1 for _ in model.bert.embeddings.parameters()) + sum(1 for _ in blocks(model)[0].parameters())
    counts = [tensors, sum(1 for _ in model.parameters()) - tensors]
    assert second == first
    assert found["samples"] == [8] * 10
    for rank, part, count in zip(found["ranks"], parts, counts, strict=True):
        assert rank["weight_bytes"] == part + buffers
        assert rank["gradient_bytes"] == part
        assert rank["optimizer_bytes"] == 2 * part + 4 * count
        # Of one process hidden states, of the other their gradients.
        assert rank["communicated_bytes"] == hidden(model, tmp_path)
        assert {(call["operation"], call["calls"]) for call in rank["collectives"]} == {("send", 4)}
    assert found["losses"][0] == pytest.approx(1.1, abs=0.05)


@pytest.mark.slow
def test_what_both_ends_hold_is_exchanged(make, tmp_path):
    task = jobs.prose(tmp_path)
    folder = make("Llama", 4, tie_word_embeddings=True)
    found, model = trained("full + data_parallel(2) + pipeline_parallel(2, 2)", folder, tmp_path, task=task)
    shared = 4 * model.lm_head.weight.numel()
    _, inside = sizes(model)
    after = 4 * model.model.norm.weight.numel()
    for number, rank in enumerate(found["ranks"]):
        held = shared + sum(inside) // 2 + after * (number % 2)
        assert rank["gradient_bytes"] == held
        # An all-reduce of two processes sends as much as it is of.
        assert rank["communicated_bytes"] == hidden(model, tmp_path, task) // 2 + shared + held


@pytest.mark.slow
def test_what_is_held_at_once_hangs_on_the_schedule(make, tmp_path):
    folder = make("Bert", 4)
    saved = {}
    for schedule in ("gpipe", "1f1b"):
        found, _ = trained(f'full + pipeline_parallel(2, 8, "{schedule}")', folder, tmp_path)
        saved[schedule] = [rank["activation_bytes"] for rank in found["ranks"]]
    # Of eight micro-batches the first process holds all or two, and the last all or one.
    assert saved["gpipe"][0] == pytest.approx(4 * saved["1f1b"][0], rel=0.02)
    assert saved["gpipe"][1] == pytest.approx(8 * saved["1f1b"][1], rel=0.02)


@pytest.mark.slow
def test_two_pieces_each_send_thrice(make, tmp_path):
    folder = make("Bert", 4)
    found, model = trained('full + pipeline_parallel(2, 4, "interleaved")', folder, tmp_path)
    assert [rank["communicated_bytes"] for rank in found["ranks"]] == [3 * hidden(model, tmp_path)] * 2


@pytest.mark.parametrize(
    ("schedule", "held"), [("gpipe", [8, 8, 8, 8]), ("1f1b", [4, 3, 2, 1]), ("interleaved", [11, 9, 7, 5])]
)
def test_passes_in_flight(schedule, held):
    # Narayanan et al. 2021: warm-up of (v - 1) n + 2 (n - 1 - place) passes forward, and one more.
    method = PipelineParallel(4, 8, schedule)
    assert [method._in_flight(place) for place in range(4)] == held
