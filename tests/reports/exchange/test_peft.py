import json

import pytest

from bench.record.errors import RecordError
from bench.record.reading import read as records
from reports.exchange import peft, read
from tests import synthetic
from tests.reports.exchange.conftest import PEFT
from tests.synthetic import METHODS, Method


def test_an_experiment_is_a_row(put):
    (row,) = read([put(PEFT)])
    assert (row.version, row.date, row.model) == ("0.19.2", "2026-07-15", "meta-llama/Llama-3.2-3B")
    assert (row.task, row.machine) == ("metamath, gsm8k", "NVIDIA L40S")
    found = {value.name: (value.value, value.unit, value.metric) for value in row.values}
    assert found["test accuracy"] == (0.478, "fraction", "accuracy")
    assert found["forgetting"] == (0.05, "nats", "forgetting")
    assert found["train loss"] == (0.607, "nats", "")  # of other steps than ours
    assert found["accelerator_memory_max"] == (22e9, "B", "")  # reserved, not allocated
    assert found["num_trainable_params"] == (9_175_040, "count", "trainable_parameters")
    assert found["total_time"] == (1153.5, "s", "")
    assert "valid accuracy" not in found


def test_what_is_optional_may_be_missing(put):
    small = {"run_info": {"experiment_name": "x/y"}, "train_info": {"metrics": [], "status": "canceled"}}
    (row,) = read([put(small)])
    assert (row.name, row.model, row.task, row.machine, row.values) == ("x/y (canceled)", "", "", "", ())


def test_the_memory_of_older_files_and_the_size_that_is_none(put):
    train = PEFT["train_info"] | {"cuda_memory_max": 5_000, "file_size": 99_999_999}
    del train["accelerator_memory_max"]
    names = {value.name for value in read([put(PEFT | {"train_info": train})])[0].values}
    assert "cuda_memory_max" in names
    assert "file_size" not in names


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("train_info", {"metrics": None}, "`train_info.metrics` is no list of objects"),
        ("train_info", {"metrics": [1]}, "`train_info.metrics` is no list of objects"),
        ("train_info", {"metrics": [{"test accuracy": "high"}]}, "`train_info.metrics[-1].test accuracy` is no number, but 'high'"),
        ("train_info", {"train_time": True}, "`train_info.train_time` is no number, but True"),
        ("run_info", {"experiment_name": None}, "`run_info.experiment_name` is missing"),
        ("run_info", {"train_config": []}, "`run_info.train_config` is no object, but []"),
    ],
)  # fmt: skip
def test_another_form_names_file_key_and_mend(put, part, change, said):
    file = put(PEFT | {part: PEFT[part] | change})
    with pytest.raises(RecordError) as error:
        read([file])
    assert str(error.value) == f"{file}: {said}; {peft.MEND}"


# -- ours --------------------------------------------------------------------------------------------------


@pytest.fixture
def ours(tmp_path):
    methods = {name: METHODS[name] for name in ("full", "lora r=8", "int8", "adamw, lr too high", "two GPUs")}
    methods["boft"] = Method("peft('BOFT')")
    found = synthetic.records(methods=methods, seeds=(1,))
    for node in found.nodes.values():
        node["budget"] = {"max_length": 48, "batch_size": 16, "eval_batch_size": 32}
        if node["status"] == "ok":
            node["size"] = {"bytes": 1300, "files": {"model.safetensors": 1000, "tokenizer.json": 300}}
    folder = synthetic.write(found, tmp_path / "out")
    written = peft.write(folder)
    assert {file.parent for file in written} == {folder / "peft"}
    results = [json.loads(file.read_text()) for file in written]
    return {result["run_info"]["experiment_name"]: result for result in results}, records(folder).nodes


def test_a_cell_is_a_file_with_what_we_measured(ours):
    found, nodes = ours
    result, node = found["full/full-seed1"], nodes["minilm/stdlib-topics/1/full"]
    run, train, meta = result["run_info"], result["train_info"], result["meta_info"]
    assert run["train_config"]["model_id"] == "minilm"
    assert (run["train_config"]["max_seq_length"], run["train_config"]["batch_size"]) == (48, 16)
    assert (run["train_config"]["batch_size_eval"], run["train_config"]["max_steps"], run["train_config"]["seed"]) == (
        32,
        60,
        1,
    )
    assert run["total_time"] == node.seconds["total"]
    assert (run["peft_config"], run["error_msg"], train["status"]) == (None, "", "success")
    assert train["train_time"] == pytest.approx(sum(node.training.step_seconds))
    assert train["file_size"] == 1000  # the weights' file alone
    assert (train["num_trainable_params"], train["num_total_params"]) == (
        node.training.trainable,
        node.parameters.total,
    )
    (last,) = train["metrics"]
    assert last["test accuracy"] == node.quality.metrics["accuracy"]
    assert last["train loss"] == pytest.approx(sum(node.training.losses[-6:]) / 6)
    assert (last["step"], last["train samples"]) == (60, sum(node.training.samples))
    assert last["train total tokens"] == sum(node.training.tokens)
    assert meta["package_info"]["torch-version"] == "2.13.0+cpu"
    assert meta["system_info"]["accelerator"] is None


def test_what_we_do_not_measure_as_they_do_is_null(ours):
    found, _ = ours
    result = found["full/full-seed1"]
    memory = [value for key, value in result["train_info"].items() if "memory" in key]
    assert memory == [None, None, None]
    assert result["train_info"]["metrics"][0]["forgetting"] is None
    assert (result["run_info"]["peft_branch"], result["run_info"]["train_config"]["dtype"]) == (None, None)


def test_no_recipe_is_taken_for_another_method(ours):
    found, _ = ours
    kinds = {
        name: result["run_info"]["peft_config"] and result["run_info"]["peft_config"]["peft_type"]
        for name, result in found.items()
    }
    assert kinds == {
        "full/full-seed1": None,
        "lora/lora r=8-seed1": "LORA",
        "peft/boft-seed1": "BOFT",
        "full/int8-seed1": "full >> int8",
        "full/adamw, lr too high-seed1": None,
    }


def test_what_ended_by_an_error_says_so_and_what_never_ran_is_not_there(ours):
    found, _ = ours
    result = found["full/adamw, lr too high-seed1"]
    assert (result["train_info"]["status"], result["run_info"]["error_msg"]) == (
        "canceled",
        "the loss is nan at step 17 of 60",
    )
    assert not any("two GPUs" in name for name in found)


def test_their_reader_finds_every_key_that_it_asks_for(ours):
    """What ``processing.py`` of the method comparison reads of each row, by hand."""
    for result in ours[0].values():
        assert set(result) == {"run_info", "train_info", "meta_info"}
        assert {"experiment_name", "train_config", "peft_config", "total_time", "peft_branch", "created_at"} <= set(
            result["run_info"]
        )
        assert {"accelerator_memory_reserved_avg", "accelerator_memory_max", "accelerator_memory_reserved_99th", "train_time",
                "file_size", "num_trainable_params", "status", "metrics"} <= set(result["train_info"])  # fmt: skip
        assert {"test accuracy", "train loss", "train samples", "train total tokens", "forgetting"} <= set(
            result["train_info"]["metrics"][-1]
        )
        packages = {f"{name}-version" for name in ("peft", "transformers", "datasets", "torch", "bitsandbytes")}
        assert packages <= set(result["meta_info"]["package_info"])
        assert "system_info" in result["meta_info"]


def test_what_we_write_we_read(ours, put):
    (row,) = read([put(ours[0]["lora/lora r=8-seed1"])])
    assert (row.name, row.model, row.task) == ("lora/lora r=8-seed1", "minilm", "stdlib-topics")
