import pytest

from bench.record.errors import RecordError
from reports.exchange import optimum_benchmark, read
from tests.reports.exchange.conftest import CONFIG, REPORT


def test_a_target_is_a_row_with_its_own_names_and_units(put):
    load, forward = read([put({"config": CONFIG, "report": REPORT})])
    assert (load.name, forward.name) == ("pytorch_bert load_model", "pytorch_bert forward")
    assert (forward.model, forward.task, forward.machine, forward.version) == (
        "bert-base-uncased", "fill-mask", "NVIDIA A100", "0.6.0",
    )  # fmt: skip
    found = {value.name: (value.value, value.unit) for value in forward.values}
    assert found["latency mean"] == (0.02, "s")
    assert found["throughput"] == (100.0, "samples/s")
    assert found["energy total"] == (1.1e-6, "kWh")
    assert found["efficiency"] == (1.8e6, "samples/kWh")
    assert [(value.name, value.value, value.unit) for value in load.values][-1] == ("memory max_ram", 900.5, "MB")
    assert not any(value.metric for row in (load, forward) for value in row.values)  # none is defined as ours


def test_a_report_alone_takes_the_configuration_beside_it(put):
    file = put(REPORT, "benchmark_report.json")
    assert (read([file])[1].name, read([file])[1].model) == ("forward", "")
    put(CONFIG, "benchmark_config.json")
    assert (read([file])[1].name, read([file])[1].model) == ("pytorch_bert forward", "bert-base-uncased")
    put("{", "benchmark_config.json")
    assert read([file])[1].name == "forward"


def test_without_a_gpu_the_machine_is_the_cpu(put):
    environment = {"cpu": " Xeon"}
    assert read([put({"config": {"environment": environment}, "report": REPORT})])[0].machine == "Xeon"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"latency": {"mean": 0.1}}, "`report.forward.latency.unit` is missing"),
        ({"latency": {"unit": "s", "list": [0.1]}}, "`report.forward.latency.mean` is missing"),
        ({"latency": [0.1]}, "`report.forward.latency` is no object, but [0.1]"),
        ({"memory": {"unit": "MB", "max_ram": "much"}}, "`report.forward.memory.max_ram` is no number, but 'much'"),
    ],
)
def test_another_form_names_file_key_and_mend(put, target, said):
    file = put({"config": CONFIG, "report": {"forward": target}})
    with pytest.raises(RecordError) as error:
        read([file])
    assert str(error.value) == f"{file}: {said}; {optimum_benchmark.MEND}"
