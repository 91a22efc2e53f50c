"""What a process imports before it measures: nothing that asks CUDA in the fork server, and nothing late."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from bench.execute import imports, worker
from bench.execute.forkserver import prepared
from bench.machine import machine
from bench.models.registry import open_model
from bench.recipe import recipe, registry
from bench.suite import suite
from bench.suite.suite import load, shipped
from bench.testing import jobs
from tests.contract.test_contract import METHODS

RECORDER = """
import json, os, sys
import torch

calls = []


def recorded(name, answer):
    def call(*args, **kwargs):
        calls.append(name)
        return answer
    return call


# As if torch were built for CUDA, with one GPU that is there.
torch.cuda._is_compiled = lambda: True
torch._C._cuda_getDeviceCount = recorded("_cuda_getDeviceCount", 1)
torch.cuda.get_device_capability = recorded("get_device_capability", (9, 0))
torch.cuda._lazy_init = recorded("_lazy_init", None)
# Modules of torch have names of their own for the one above, and what asks for any accelerator asks CUDA in C++.
torch._C._cuda_init = recorded("_cuda_init", None)
for name in ("_accelerator_getAccelerator", "_accelerator_getDeviceIndex", "_accelerator_synchronizeDevice"):
    assert hasattr(torch._C, name), name
    setattr(torch._C, name, recorded(name, None))
for name in ("_cuda_getCurrentRawStream", "_cuda_getCurrentStream", "_cuda_getDefaultStream"):
    if not hasattr(torch._C, name):
        setattr(torch._C, name, lambda *args: 0)
import bench.execute.preload
from bench.execute import imports

found = {}
for name, held in json.loads(os.environ["HELD"]).items():
    imports.read(held).hold()
    found[name] = [calls[:], sorted(sys.modules)]
print(json.dumps(found))
"""


def preloaded(held):
    """For each that the fork server is to hold, in turn, all calls so far that ask CUDA for its devices, and all modules."""
    spelled = {name: one.spell() for name, one in held.items()}
    first = {"METHODBENCH_IMPORTS": next(iter(spelled.values())), "METHODBENCH_PATH": json.dumps(sys.path)}
    command = [sys.executable, "-c", RECORDER]
    environment = {**os.environ, **first, "HELD": json.dumps(spelled)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200, env=environment)
    found = json.loads(done.stdout.splitlines()[-1])
    return {name: (calls, set(modules)) for name, (calls, modules) in found.items()}


def of_suite(file, device):
    """What a run of this suite has the server hold."""
    checked = suite.load(file)
    stages = [stage for one in checked.parsed().values() for stage in one.stages]
    return imports.of(stages, {open_model(model, file.parent).model_type() for model in checked.models}, device)


def test_on_a_gpu_no_suite_has_the_server_ask_cuda():
    # Those of the hub need its models to be there.
    here = {name: file for name, file in shipped().items() if not any("/" in model for model in load(file).models)}
    suites = {name: of_suite(file, "cuda") for name, file in here.items()}
    assert len(suites) >= 8
    for name, (calls, modules) in preloaded(suites).items():
        assert (name, calls) == (name, [])
        # What is heavy and does not ask is there all the same.
        assert {"transformers.models.auto.tokenization_auto", "torch._dynamo", "bench.stage.stage"} <= modules
        for model_type in suites[name].model_types:
            assert f"transformers.models.{model_type}.configuration_{model_type}" in modules


def test_on_a_cpu_the_server_holds_what_the_methods_and_models_need_whatever_it_asks():
    held = imports.Imports(("peft", "no_such_package", "torch_pruning"), ("bert", "deberta-v2"))
    calls, modules = preloaded({"cpu": held})["cpu"]
    assert {"peft", "torch_pruning", "bitsandbytes", "torchao"} <= modules
    assert {f"transformers.models.{name}.modeling_{name}" for name in ("bert", "deberta_v2")} <= modules
    # So the recorder sees what it is there to see.
    assert {"_cuda_getDeviceCount", "get_device_capability"} <= set(calls)


def test_what_is_needed_is_that_of_all_methods_and_of_those_in_their_arguments():
    stages = recipe.parse("lora(r=2) >> merge >> prune_ffn(0.5) >> full + gradual(prune_heads(0.5))").stages
    found = imports.of(stages, ["llama", "bert", "bert"], "cpu")
    assert found == imports.Imports(("peft", "torch_pruning"), ("bert", "llama"), "cpu")
    assert imports.read(found.spell()) == found


def test_a_package_that_is_missing_is_named_in_the_job_that_needs_it():
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        imports.Imports(("no_such_package",)).all()


def test_planning_a_model_type_that_transformers_does_not_know_is_no_error():
    imports.Imports(model_types=("of-ones-own",)).all()


# What Python and torch import at the first use of a thing that is everywhere, such as an encoding.
FEW = 12


@pytest.fixture(scope="module")
def others():
    """All modules of a process that a suite of all methods would make."""
    stages = [stage for recipes in METHODS.values() for text in recipes.values() for stage in recipe.parse(text).stages]
    code = (
        "import json, sys; import bench.execute.preload; from bench.execute import imports\n"
        "imports.read(sys.argv[1]).all()\nprint(json.dumps(sorted(sys.modules)))"
    )
    command = [sys.executable, "-c", code, imports.of(stages, {"bert"}, "cpu").spell()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "text"), [(name, text) for name, recipes in METHODS.items() for text in dict.fromkeys(recipes.values())]
)
def test_nothing_that_others_need_is_imported_while_memory_is_measured(method, text, others, tiny_bert, tmp_path):
    """Else the figure is another one in a suite whose other recipes had it imported before.

    What a compiler or an exporter imports while it works, and nobody else before, is the recipe's own in every suite.
    """
    here = machine.look("cpu")
    if any(machine.satisfies(here, broken.versions) for broken in registry.methods()[method].breaks_with):
        pytest.skip("these versions break it")
    stages = recipe.parse(text).stages
    for depth in range(len(stages)):
        whole = [jobs.job(text, tiny_bert, tmp_path, depth=depth)]
        if depth == len(stages) - 1:
            whole.append(replace(whole[0], what="serve"))
        for job in whole:
            late = _late_in(job) & others
            assert len(late) < FEW, (job.what, sorted({".".join(name.split(".")[:2]) for name in late}))


def _late_in(job):
    """What a job imports from its baseline on, in a process that nothing else was imported in."""
    context = prepared()
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_watched, args=(theirs, job))
    process.start()
    theirs.close()
    try:
        assert ours.poll(280), "the job hangs"
        status, reason = ours.recv()
    finally:
        process.kill()
        process.join()
    assert status == "ok", reason
    names = set(_file(job).read_text().split())
    return {name for name in names if not name.startswith(("methods", "bench"))}


def _file(job):
    return job.log.with_suffix(f".late-{job.what}")


def _watched(connection, job):
    from bench.measure.peak import Peak

    made, stopped = Peak.__init__, Peak.stop

    def make(self, *args):
        made(self, *args)
        self.there = set(sys.modules)

    def stop(self):
        with _file(job).open("a") as file:  # processes that share the stage have memory of their own
            file.write("".join(f"{name}\n" for name in set(sys.modules) - self.there))
        return stopped(self)

    Peak.__init__, Peak.stop = make, stop
    connection.send(worker.attempt(job, jobs.quiet)[:2])
