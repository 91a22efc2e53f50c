"""The contract on a GPU: each recipe ends ``ok`` or was refused at planning, and who makes a step wait for the GPU is named.

The GPU is not there (:mod:`tests.pretend`), so this runs everywhere; ``tests/on_gpu.sh`` runs it on a real one. What the
pretended one cannot do is in :data:`ELSEWHERE`, which ``docs/gpu.md`` repeats.
"""

import dataclasses
import re
from collections import Counter
from pathlib import Path

import pytest

from bench.machine import machine
from bench.plan import plan
from bench.recipe import recipe, registry
from bench.suite.suite import of
from bench.testing import jobs
from tests import gpus
from tests.contract.test_contract import METHODS

PROCESSES = "several processes exchange gradients or activations by NCCL, for tensors of CUDA alone"
BY_GLOO = "the contract and `tests/methods/training/parallel/test_divided.py`, by gloo on the CPU"
FOUR_BITS = "bitsandbytes makes its own class of tensor of the weight, and chooses kernels by the device's name"
KERNELS = "Triton builds kernels for CUDA alone"

ELSEWHERE = {
    "compile": (KERNELS, "`tests/methods/training/optimization/test_compile.py`, on the CPU; recording of CUDA graphs by torch's own word"),
    "compile_inference": (KERNELS, "`tests/methods/compression/export/test_compile_inference.py`, likewise"),
    "compressed_gradients": (PROCESSES, BY_GLOO),
    "data_parallel": (PROCESSES, BY_GLOO),
    "device_map": ("it needs several GPUs", "`tests/methods/training/parallel/test_device_map.py`, on several of these"),
    "fp4": (FOUR_BITS, "`tests/methods/compression/quantization/test_four_bits.py`, on the CPU"),
    "fully_sharded": (PROCESSES, BY_GLOO),
    "torchao_int4_weight_only": ("torchao packs weights for CUDA's kernel alone", "`tests/methods/compression/quantization/test_torchao.py`, on the CPU"),
    "torchao_wanda": ("torchao resizes a tensor, and the pretended ones keep their size", "`tests/methods/compression/pruning/test_torchao_wanda.py`, on the CPU"),
    "bnb_int8": (FOUR_BITS, "`tests/methods/compression/quantization/test_bnb_int8.py`, on the CPU"),
    "nf4": (FOUR_BITS, "`tests/methods/compression/quantization/test_four_bits.py`, on the CPU"),
    "pipeline_parallel": (PROCESSES, BY_GLOO),
    "sparse_storage": ("no tensor in compressed rows (CSR) can be on it", "`tests/methods/compression/export/test_sparse_storage.py`, on the CPU"),
    "tensor_parallel": (PROCESSES, BY_GLOO),
}  # fmt: skip
"""What cannot run on GPUs that are not there, by method: why, and what covers it instead."""

TRIED = {
    "fp4": "Params4bit",
    "torchao_int4_weight_only": "CUDA",
    "torchao_wanda": "resize_",
    "bnb_int8": "set_data",
    "nf4": "Params4bit",
    "sparse_storage": "CSR",
}
"""Of those, the ones that one process can try: a word of what torch or the library then says."""

WAITS = {
    "adalora": "adalora/layer.py",
    "distill": "_shared/distillation.py: per_item",
    "gradual": "methods/_statistics.py: rows|tasks/base.py",
    "mixed_precision": "optimization/mixed_precision.py: unscaled",
    "prefix": "peft/peft_model.py|transformers/cache_utils.py: lazy_initialization",
    "prompt": "peft/peft_model.py",
}
"""Who makes steps wait for the GPU, by method: a pattern of where. Others do not."""

YET = "transformers/masking_utils.py: _ignore_(bidirectional|causal)_mask_sdpa"
"""Of batches with padding, as these, transformers reads in each pass whether the mask hides anything."""

MODELS = ("tiny_bert", "tiny_llama")
BOTH = ("accumulate", "full", "half", "lora", "mixed_precision", "prefix", "prune_heads", "wanda")
"""Those whose first recipe is tried on the decoder each time; the others with the slow tests."""


def tried():
    for model in MODELS:
        for name, recipes in METHODS.items():
            for number, text in enumerate(dict.fromkeys(recipes.values())):
                quick = number == 0 and (model == "tiny_bert" or name in BOTH) and not gpus.REAL
                if gpus.REAL or name not in ELSEWHERE:
                    yield pytest.param(
                        model, name, text, id=f"{model}-{text}", marks=[] if quick else [pytest.mark.slow]
                    )


@pytest.fixture(scope="module")
def gpu(request, tmp_path_factory):
    """What runs recipes on a model, and why planning refuses those that it does, on a machine with GPUs."""
    made = {}

    def get(name):
        if name not in made:
            model, folder = request.getfixturevalue(name), tmp_path_factory.mktemp(name)
            texts = dict.fromkeys(text for recipes in METHODS.values() for text in recipes.values())
            suite = of({
                "model": str(model), "task": jobs.table(folder).model_dump(), "recipes": {text: text for text in texts},
                "baseline": "full", "budget": {"steps": 6, "batch_size": 8, "max_length": 32}, "measure": {"latency": [(1, 8)]},
            })  # fmt: skip
            here = machine.look("cuda", 1) if gpus.REAL else dataclasses.replace(gpus.here(), device="cuda")
            cells = plan.make(suite, folder, here).cells
            made[name] = (
                gpus.Gpu(model, name.removeprefix("tiny_"), folder),
                {cell.name: cell.refused for cell in cells},
            )
        return made[name]

    yield get
    for one, _ in made.values():
        one.close()


@pytest.mark.parametrize(("model", "name", "text"), list(tried()))
def test_it_works_on_a_gpu_and_only_who_is_named_waits_for_it(model, name, text, gpu):
    device, refused = gpu(model)
    if refused[text]:
        assert all(len(reason) > 20 for reason in refused[text])
        pytest.skip(refused[text][0])
    end = device.run(text)
    assert end.status == "ok", f"{end.reason}\n{end.log}"
    assert name in end.proven
    allowed = "|".join([WAITS[each.name] for each in _methods(text) if each.name in WAITS] + [YET])
    unknown = Counter(wait for step in end.waits for wait in step if not re.search(allowed, wait))
    assert not unknown, f"in {len(end.waits)} steps"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("text", ["full", "lora(r=2)", "full + accumulate(2)"])
def test_no_step_of_the_plainest_trainings_waits(model, text, gpu):
    device, _ = gpu(model)
    end = device.run(text)
    assert len(end.waits) == 5
    assert not Counter(wait for step in end.waits for wait in step if not re.search(YET, wait))


@pytest.mark.skipif(gpus.REAL, reason="a real GPU runs them")
@pytest.mark.parametrize("name", TRIED)
def test_what_is_said_to_be_covered_elsewhere_cannot_be_tried_here(name, gpu):
    device, _ = gpu("tiny_bert")
    for text in dict.fromkeys(METHODS[name].values()):
        end = device.run(text)
        assert end.status == "failed", f"{text}: take it from the list"
        assert TRIED[name] in end.reason


def test_the_list_of_what_is_covered_elsewhere_is_of_methods_and_files_that_there_are():
    assert ELSEWHERE.keys() <= registry.methods().keys()
    divided = {name for name, recipes in METHODS.items() if recipes and all(map(_divided, recipes.values()))}
    assert ELSEWHERE.keys() == divided | TRIED.keys() | {"compile", "compile_inference", "device_map"}
    for _, by in ELSEWHERE.values():
        for file in re.findall(r"`(tests/[^`]+)`", by):
            assert Path(file).is_file(), file


def test_the_page_repeats_both_lists():
    page = Path("docs/gpu.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page.partition("## Covered elsewhere")[2], re.M))
    assert rows == {name: " | ".join(row) for name, row in ELSEWHERE.items()}
    named = page.partition("## Who waits")[2].partition("##")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", named, re.M)) == WAITS.keys()


def _methods(text):
    return [method for stage in recipe.parse(text).stages for method in stage.methods]


def _divided(text):
    return any(stage.layout for stage in recipe.parse(text).stages)
