import math

from bench.compare.compare import Comparisons
from bench.record.reading import read
from reports.trackers.base import entries


def found(folder, node=None):
    return {entry.config["name"]: entry for entry in entries(Comparisons(read(folder)), node)}


def test_an_entry_has_the_cells_settings_curve_and_figures(folder):
    entry = found(folder)["full"]
    assert (entry.name, entry.project, entry.group, entry.ok) == (
        "full, seed 1", "Which-method-for-topics", "minilm on stdlib-topics", True,
    )  # fmt: skip
    assert entry.config["recipe"] == "full"
    assert (entry.config["machine.device"], entry.config["machine.torch"]) == ("cpu", "2.13.0+cpu")
    assert (entry.config["unit.accuracy"], entry.config["unit.train_tokens_per_second"]) == ("fraction", "tokens/s")
    assert entry.config["budget.steps"] == 60
    node = read(folder).nodes[entry.id]
    assert entry.figures["accuracy"] == node.quality.metrics["accuracy"]
    assert list(entry.curve) == list(range(1, 61))
    assert [point["loss"] for point in entry.curve.values()] == node.training.losses
    assert math.isclose(entry.curve[60]["seconds"], sum(node.training.step_seconds), rel_tol=1e-6)
    assert math.isclose(entry.curve[2]["tokens"], sum(node.training.tokens[:2]), rel_tol=1e-6)


def test_what_did_not_end_well_says_so_and_has_no_figures(folder):
    entry = found(folder)["adamw, lr too high"]
    assert (entry.ok, entry.config["status"], entry.config["reason"]) == (
        False,
        "diverged",
        "the loss is nan at step 17 of 60",
    )
    assert entry.figures == {}
    assert found(folder)["two GPUs"].config["status"] == "refused"


def test_a_loss_that_is_not_finite_is_no_point(folder):
    text = (folder / "records.jsonl").read_text()
    first = text.index('"losses": [') + len('"losses": [')
    (folder / "records.jsonl").write_text(text[:first] + "null" + text[text.index(",", first) :])
    assert list(found(folder)["full"].curve) == list(range(2, 61))


def test_a_stage_gives_the_cells_that_ended_with_it(folder):
    full = found(folder)["full"].id
    assert set(found(folder, full)) == {"full", "int8"}
    lines = (folder / "records.jsonl").read_text().splitlines(keepends=True)
    (folder / "records.jsonl").write_text(
        "".join(line for line in lines if '"recipe": "full >> int8"' not in line[:400])
    )
    (folder / "records.jsonl").write_text("".join(line for line in lines if '"stage": "int8"' not in line))
    assert set(found(folder, full)) == {"full"}


def test_another_figure_is_another_digest(folder, changed):
    before = found(folder)["full"].digest
    assert found(folder)["full"].digest == before
    changed("full")
    assert found(folder)["full"].digest != before


def test_a_newer_version_that_asks_is_nothing_new(folder):
    before = found(folder)["full"]
    text = (folder / "records.jsonl").read_text()
    (folder / "records.jsonl").write_text(text.replace('"version": "0.1.0"', '"version": "0.2.0"'))
    after = found(folder)["full"]
    assert (before.config["methodbench"], after.config["methodbench"]) == ("0.1.0", "0.2.0")
    assert before.digest == after.digest


def test_scores_while_training_are_in_the_curve(folder):
    file = folder / "records.jsonl"
    text = file.read_text().replace(
        '"losses":', '"validation": [{"step": 20, "metrics": {"accuracy": 0.5}}], "losses":'
    )
    file.write_text(text)
    curve = found(folder)["full"].curve
    assert curve[20]["validation_accuracy"] == 0.5
    assert "loss" in curve[20]
    assert [step for step, point in curve.items() if "validation_accuracy" in point] == [20]
