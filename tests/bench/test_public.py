"""The public surface: two imports, light, and complete."""

import importlib
import os
import subprocess
import sys

import pytest

import bench
from bench import api
from bench.testing import jobs


@pytest.mark.parametrize("module", ["bench", "bench.api", "bench.testing"])
def test_all_that_is_public_is_there(module):
    found = importlib.import_module(module)
    for name in found.__all__:
        assert getattr(found, name) is not None
    with pytest.raises(AttributeError, match="no attribute `nonesuch`"):
        found.nonesuch  # noqa: B018


def test_nothing_heavy_is_imported_before_it_is_asked_for():
    code = """
import sys
import bench, bench.testing.plugin
light = {"bench", "bench.testing", "bench.testing.plugin"}
ours = {name for name in sys.modules if name.partition(".")[0] in ("bench", "methods")}
assert ours == light, ours
import bench.api
from bench import compare, methods, parse, read_records, run
heavy = {"torch", "transformers", "peft", "pandas"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_methods_are_attributes():
    recipe = bench.methods.lora(r=2) + bench.methods.accumulate(k=2) >> bench.methods.merge()
    assert recipe == bench.parse("lora(r=2) + accumulate(2) >> merge")
    assert "lora" in dir(bench.methods)
    with pytest.raises(AttributeError, match="no method is called `lorra`; did you mean `lora`"):
        bench.methods.lorra  # noqa: B018


def test_the_room_that_compares_can_be_called(tmp_path):
    import bench.compare.stats  # which makes `bench.compare` the room

    with pytest.raises(bench.RecordError, match="there are no records in it"):
        bench.compare(tmp_path)


@pytest.mark.parametrize(
    ("keys", "error", "said"),
    [
        ({"suite": "nonesuch.toml"}, bench.SuiteError, "nonesuch.toml: no such file"),
        ({"suite": {"model": "minilm"}}, bench.SuiteError, "task: this key is missing"),
        ({"only": "nonesuch"}, bench.SuiteError, "'nonesuch' matches no recipe"),
        ({"seeds": 0}, bench.SuiteError, "seeds: "),
        ({"jobs": 0}, bench.MachineError, "jobs: 0: it is a whole number of at least 1, or auto"),
        ({"executor": "slurm"}, bench.MachineError, "unknown executor `slurm`; there are: local, ray"),
    ],
)
def test_mistakes_are_errors_in_the_commands_words(keys, error, said, tmp_path):
    with pytest.raises(error) as raised:
        bench.run(**({"suite": "encoder", "out": tmp_path / "results"} | keys))
    assert said in str(raised.value)
    assert not (tmp_path / "results").exists()


def test_a_command_without_a_guard_runs_a_suite_and_leaves_the_environment(tiny_bert, tmp_path):
    table = {
        "model": str(tiny_bert),
        "task": jobs.table(tmp_path).model_dump(exclude_unset=True),
        "budget": {"steps": 2, "batch_size": 8, "max_length": 32},
        "measure": {"latency": []},
        "recipes": {"full": "full", "bad": "merge"},
    }
    code = f"""
import os
import bench
before = dict(os.environ)
for times in range(2):
    done = bench.run(bench.Suite(**{table!r}))
    print(done.folder, sorted(done.statuses.values()), [cell.name for cell in done.refused], done.asked, done.ok)
assert dict(os.environ) == before
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["results/python ['ok'] ['bad'] 2 True", "results/python [] ['bad'] 2 True"]
    assert "refused  bad: merge: there is no adapter to fold" in done.stderr


def test_what_a_package_imports_is_what_the_engine_uses():
    from bench.recipe.method import Trainer
    from bench.stage.loop import Training

    assert api.Trainer is Trainer
    assert api.Training is Training
