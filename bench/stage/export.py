"""The model that a stage left, in a folder that others load: transformers, PEFT, or the runtime that it was exported to.

It is proven there: a fresh process, in which nothing of ours can be imported, loads the folder by the very lines that the
folder's card shows, and answers test items as the checkpoint does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy
import torch

from bench.models.architecture import members, told_by_config, unwrapped
from bench.models.names import plain
from bench.models.sources.directory import quiet
from bench.models.sources.hub import Hub
from bench.recipe import registry
from bench.recipe.errors import Refusal
from bench.recipe.facts import ships_without_base_model
from bench.recipe.method import Transform
from bench.recipe.recipe import Stage
from bench.stage import checkpoint
from bench.stage.job import Job, Progress
from bench.stage.stage import seed_everything
from bench.stage.work import Work
from bench.tasks.registry import open_task

if TYPE_CHECKING:
    from bench.tasks.base import Batch, Task

ITEMS = 4
"""Test items that are asked of both models."""

ALLOWED = 1e-4
"""How far an answer may be off, of the largest logit: another number of threads adds up in another order, and a runtime in
its own. A fresh process on the same machine most often gives the very same bits."""

ALLOWED_4BIT = 0.05
"""The same for bitsandbytes' layers of 4 bits. On CPUs with AVX512_BF16 it multiplies in bfloat16 (8 bits of fraction)
whatever precision was asked for, once it has repacked them, from which a stage keeps them (:mod:`bench.models.packed`)."""

BASE = "base"
"""The folder, in that of an adapter, for the model that it is for."""


@dataclass(frozen=True)
class Loading:
    """How others load a folder and ask the model in it.

    ``load`` is Python that makes ``model`` of ``folder``; ``ask`` is an expression that makes outputs, by name, of ``model``
    and of ``inputs``, arrays by name: torch's for transformers and PEFT, else NumPy's. ``library`` is what the hub calls what
    loads it, and ``packages`` are those that it takes.
    """

    library: str
    load: str
    ask: str
    packages: tuple[str, ...]
    torch: bool = True


def run(job: Job, progress: Progress, measured: dict[str, Any]) -> None:
    """Write the model of ``job.output`` into the folder of ``job.export`` and prove it; what is `measured` says how.

    Raises:
        Refusal: the format cannot hold the model. Unlike: a fresh process cannot load it, or answers otherwise.
    """
    assert job.export is not None
    folder, task = job.export.folder, open_task(job.task, job.suite_folder)
    progress("load", 0, 1)
    model, tokenizer = checkpoint.load(job.output)
    model.eval()
    can = dict(_refused(model, job.export.refused))
    format = job.export.format or _own(model)
    if why := can[format]:
        others = [other for other in can if not can[other]]
        mend = f"these can: {', '.join(others)}, as in --format {others[0]}" if others else _all(can, format)
        raise Refusal(f"{format} cannot hold this model: {why}; {mend}")
    batch = next(task.batches("test", tokenizer, batch_size=ITEMS, max_length=job.budget.max_length))
    with torch.no_grad():
        outputs = model(**batch.inputs)
    expected = task.logits(outputs, batch).float()
    progress("write", 0, 1)
    if task.generates:
        unwrapped(
            model
        ).config.get_text_config().use_cache = True  # which no stage wants, and whoever writes with it does
    with quiet():
        if converted := format in registry.runtimes() and _own(model) != format:
            model = _made(registry.runtimes()[format](), model, tokenizer, task, job)
        loading = _write(model, folder, task, job)
        tokenizer.save_pretrained(folder)
    progress("prove", 0, 1)
    found = _fresh(loading, folder, tokenizer, batch, task, threads=job.machine.threads)
    off = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    allowed = ALLOWED_4BIT if getattr(unwrapped(model), "is_loaded_in_4bit", False) else ALLOWED
    if not off <= allowed:  # nor a number that is none
        raise Unlike(
            f"loaded in a fresh process, the model answers otherwise: logits are off by {off:.2g} of the largest, and "
            f"{allowed:g} is allowed"
        )
    proof = {"items": len(batch.items), "off": off, "allowed": allowed}
    if task.predicts_classes:
        proof["agreeing"] = float((found.argmax(-1) == expected.argmax(-1)).float().mean())
    source = job.source()
    hub = source.snapshot.repository if isinstance(source, Hub) else ""
    measured["export"] = {
        "format": format,
        "kind": task.kind,
        "hub": hub,
        "converted": converted,
        "loading": asdict(loading),
        "reading": _reading(task, loading),
        "proof": proof,
        "vllm": _vllm(model, task, format, f"FOLDER/{BASE}" if (folder / BASE).is_dir() else hub),
    }


class Unlike(Exception):
    """What was written is not the model: a fresh process cannot load it, or answers otherwise."""


# -- formats


def _own(model: Any) -> str:
    """The format that the model is in as it is."""
    return getattr(model, "format", "") or ("peft" if hasattr(model, "peft_config") else "transformers")


def _refused(model: Any, runtimes: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each format with why it cannot hold the model; empty where it can. `runtimes` has what planning says of these."""
    own = _own(model)
    elsewhere = (
        f"it is in the files of {own}, from which there is no way back" if own not in ("transformers", "peft") else ""
    )
    yield "transformers", elsewhere or ("a PEFT adapter is on it" if own == "peft" else _unknown(model))
    yield "peft", elsewhere or ("" if own == "peft" else "no PEFT adapter is on it")
    for format, why in runtimes.items():
        yield format, "" if format == own else elsewhere or why


def _unknown(model: Any) -> str:
    """What of the model ``from_pretrained`` could not make from its configuration; empty where it makes all of it."""
    from transformers import PreTrainedModel

    if len(members(model)) > 1:
        return f"it is {len(members(model))} models that answer together"
    if not isinstance(model, PreTrainedModel):
        return f"it is a {type(model).__name__}, and no model of transformers"
    if not told_by_config(model):
        return "it has layers that its configuration cannot tell"
    if getattr(model.config, "quantization_config", None) is not None:
        return ""  # in whose form weights are, from_pretrained knows
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in type(model)(model.config).state_dict().items()}
    state = model.state_dict()
    odd = [
        name
        for name in dict.fromkeys([*wanted, *state])
        if name not in state or type(state[name]) is not torch.Tensor or wanted.get(name) != state[name].shape
    ]
    return f"{len(odd)} of its weights are held in a way of their own, as {odd[0]}" if odd else ""


def _all(can: Mapping[str, str], format: str) -> str:
    """That no format can hold it, and why."""
    said = "; ".join(f"{other}: {why}" for other, why in can.items() if other != format)
    return f"nor can any other: {said}"


def _made(method: Transform, model: torch.nn.Module, tokenizer: Any, task: Task, job: Job) -> torch.nn.Module:
    """What `method` makes of the model."""
    seed_everything(job.seed)
    work = Work(
        model=model,
        tokenizer=tokenizer,
        task=task,
        stage=Stage(method),
        before=job.stages,
        budget=job.budget,
        machine=job.machine,
        seed=job.seed,
        suite_folder=job.suite_folder,
        arrived=job.source().facts(),
    )
    method.apply(work)
    return work.model


# -- folders


def _write(model: Any, folder: Path, task: Task, job: Job) -> Loading:
    if loading := getattr(model, "loading", None):
        model.save(folder)
        assert isinstance(loading, Loading)
        return loading
    if hasattr(model, "peft_config"):
        return _adapter(model, folder, task, job)
    model.save_pretrained(folder)
    return Loading("transformers", _auto(task, "model", "folder", job), "model(**inputs)", _packages(model))


def _auto(task: Task, name: str, where: str, job: Job, *more: str) -> str:
    """The lines by which transformers loads a model."""
    arguments = [where, *more, *(["trust_remote_code=True"] if job.allow_remote_code else [])]
    return f"from transformers import {task.auto_class}\n\n{name} = {task.auto_class}.from_pretrained({', '.join(arguments)})"


def _packages(model: Any, *more: str) -> tuple[str, ...]:
    quantized = getattr(unwrapped(model).config, "quantization_config", None) is not None
    return ("torch", "transformers", *more, *(["accelerate", "bitsandbytes"] if quantized else []))


def _adapter(model: Any, folder: Path, task: Task, job: Job) -> Loading:
    """The adapter, and the model that it is for, where that cannot be had from the hub."""
    model.save_pretrained(folder)
    file = folder / "adapter_config.json"
    config, source, base = json.loads(file.read_text()), job.source(), unwrapped(model)
    # What makes its start out of the base's weights has changed these, and would change them once more.
    starts = config.get("init_lora_weights", True) not in (True, False, "gaussian")
    if isinstance(source, Hub) and ships_without_base_model(job.stages) and not starts:
        config |= {"base_model_name_or_path": source.snapshot.repository, "revision": source.snapshot.commit}
        base.config.save_pretrained(folder)  # it has the task's labels
        where: tuple[str, ...] = (
            repr(source.snapshot.repository),
            f"revision={source.snapshot.commit!r}",
            "config=config",
        )
        lines = "from transformers import AutoConfig\n\nconfig = AutoConfig.from_pretrained(folder)\n"
    else:
        config |= {"base_model_name_or_path": BASE, "revision": None}
        if starts:
            config["init_lora_weights"] = True
        base.save_pretrained(folder / BASE, state_dict=_beneath(model))
        where, lines = (f'f"{{folder}}/{BASE}"',), ""
    file.write_text(json.dumps(config, indent=2, sort_keys=True))
    lines += f"{_auto(task, 'base', where[0], job, *where[1:])}\nmodel = PeftModel.from_pretrained(base, folder)"
    return Loading("peft", f"from peft import PeftModel\n{lines}", "model(**inputs)", _packages(model, "peft"))


def _beneath(model: Any) -> dict[str, torch.Tensor]:
    """The weights of the model without its adapter, by the names that they had; of a copy that trained beside it, that."""
    adapter = getattr(model.base_model, "prefix", None) or "prompt_encoder"
    return {
        plain(name): tensor
        for name, tensor in unwrapped(model).state_dict().items()
        if ".original_module." not in name and f".{adapter}" not in f".{name}"
    }


def _reading(task: Task, loading: Loading) -> str:
    """The lines that make ``inputs`` for the model, as far as they are the same for every item."""
    if task.reads_images:
        return (
            "from transformers import AutoImageProcessor\n\nprocessor = AutoImageProcessor.from_pretrained(folder)\n"
            'inputs = processor(images=["an image.png"], return_tensors="pt")'
        )
    asked = f'\ninputs = tokenizer(["some text"], return_tensors="{"pt" if loading.torch else "np"}")'
    return TOKENIZER + (asked if task.reads_texts else "")


_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's ``--max-lora-rank`` may be."""


def _vllm(model: Any, task: Task, format: str, base: str) -> str:
    """The command by which vLLM serves FOLDER, on top of `base` where it is an adapter; empty where it does not take it."""
    if task.generates and format == "transformers":
        return "vllm serve FOLDER"
    if not task.generates or format != "peft":
        return ""
    config = model.peft_config["default"]
    rank = next((rank for rank in _VLLM_RANKS if rank >= getattr(config, "r", 0)), None)
    if config.peft_type != "LORA" or config.modules_to_save or config.use_dora or rank is None:
        return ""
    return f"vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules NAME=FOLDER"


# -- proof

_SCRIPT = """
import importlib.abc, json, sys

class Closed(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in closed:
            raise ImportError(f"{name} is not to be imported here")

given, out = json.load(open(sys.argv[1])), sys.argv[2]
folder, closed = given["folder"], set(given["closed"])
sys.meta_path.insert(0, Closed())
scope = {"folder": folder}
exec(given["load"], scope)
import numpy
inputs = dict(numpy.load(given["inputs"]))
if given["torch"]:
    import torch
    inputs = {name: torch.from_numpy(array) for name, array in inputs.items()}
    torch.set_grad_enabled(False)
scope["inputs"] = inputs
outputs = eval(given["ask"], scope)
found = {name: outputs[name] for name in given["names"]}
numpy.savez(out, **{name: each.float().numpy() if given["torch"] else each for name, each in found.items()})
closed = set(given["closed_to_all"])
if given["texts"]:
    exec(given["tokenizer"], scope)
    ids = scope["tokenizer"](given["texts"])["input_ids"]
    assert ids == given["ids"], "the tokenizer reads texts otherwise"
"""

OURS = ("bench", "methods", "reports", "methodbench")

TOKENIZER = "from transformers import AutoTokenizer\n\ntokenizer = AutoTokenizer.from_pretrained(folder)"


def _fresh(loading: Loading, folder: Path, tokenizer: Any, batch: Batch, task: Task, *, threads: int) -> torch.Tensor:
    """The logits of `batch` that a fresh process finds, which can import nothing of ours, nor torch where it is not needed."""
    with tempfile.TemporaryDirectory(prefix="methodbench-") as name:
        place = Path(name)
        arrays: dict[str, Any] = {key: tensor.numpy() for key, tensor in batch.inputs.items()}
        numpy.savez(place / "inputs.npz", **arrays)
        texts = _texts(tokenizer, batch)
        given = {
            "folder": str(folder.absolute()),
            "closed": [*OURS, *([] if loading.torch else ["torch", "transformers"])],
            "closed_to_all": OURS,
            "load": loading.load,
            "ask": loading.ask,
            "torch": loading.torch,
            "inputs": str(place / "inputs.npz"),
            "names": task.logit_names,
            "tokenizer": TOKENIZER,
            "texts": texts,
            "ids": tokenizer(texts)["input_ids"] if texts else [],
        }
        (place / "given.json").write_text(json.dumps(given))
        done = subprocess.run(
            # From a folder where nothing is, and by no path of the caller's.
            [sys.executable, "-P", "-c", _SCRIPT, place / "given.json", place / "found.npz"],
            cwd=place,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.stderr.write(done.stderr)
            said = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
            raise Unlike(f"a fresh process cannot load what was written: {said}")
        with numpy.load(place / "found.npz") as found:
            outputs = SimpleNamespace(**{key: torch.from_numpy(found[key]) for key in found})
        return task.logits(outputs, batch).float()


def _texts(tokenizer: Any, batch: Batch) -> list[str]:
    """The items as text again, where they are tokens, by which two tokenizers are compared."""
    ids = batch.inputs.get("input_ids")
    if ids is None or ids.dim() != 2 or not hasattr(tokenizer, "decode"):
        return []
    return [tokenizer.decode(row, skip_special_tokens=True) for row in ids.tolist()]
