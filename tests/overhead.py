"""What the harness itself costs, as ratios measured side by side: ``nox -s overhead``.

Two ways of doing the same are timed in pairs, A B B A B A A B, so that a drift of the machine meets both alike; the
figure is the median over pairs. Nothing here passes or fails a test: a shared machine is no judge.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import io
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

THREADS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7, help="pairs of timings behind each ratio")
    parser.add_argument(
        "--records", type=Path, default=Path("results/encoder"), help="a finished run of the default suite"
    )
    parser.add_argument("--only", default="", help="only the parts whose names hold this")
    options = parser.parse_args()
    parts: list[Callable[[argparse.Namespace], Iterator[tuple[str, str, str, bool]]]] = [
        loops,
        start,
        commands,
        reports,
        suite,
    ]
    print(f"{'what':<58} {'measured':>12} {'target':>12}")
    for part in parts:
        if options.only in part.__name__:
            for what, measured, target, holds in part(options):
                print(f"{what:<58} {measured:>12} {target:>12}  {'holds' if holds else 'MISSED'}", flush=True)


def paired(first: Callable[[], float], second: Callable[[], float], pairs: int) -> tuple[float, float, float]:
    """Median, lowest and highest of ``second / first`` over pairs of alternating order."""
    ratios = []
    for number in range(pairs):
        if number % 2:
            b, a = second(), first()
        else:
            a, b = first(), second()
        ratios.append(b / a)
    return median(ratios), min(ratios), max(ratios)


# -- the loop ------------------------------------------------------------------------------------------------------


def loops(options: argparse.Namespace) -> Iterator[tuple[str, str, str, bool]]:
    """Steps a second of our loop over a bare PyTorch loop's and over transformers' Trainer's."""
    import torch

    torch.set_num_threads(THREADS)
    for name, model, recipe, steps in subjects():
        batches = premade(model, 12 if "10 ms" in name else 6)
        ours, bare, trainer = (side(model, recipe, batches, steps) for side in (our_loop, bare_loop, hf_trainer))
        for other, label, target in ((bare, "a bare loop", 0.98), (trainer, "Trainer", 1.0)):
            ours(), other()  # warm up
            # Seconds of the other over ours: steps a second of ours over the other's.
            ratio, low, high = paired(ours, other, options.pairs)
            yield f"steps/s over {label}: {name}", f"{ratio:.3f}", f"≥ {target}", ratio >= target
            yield f"  (of {options.pairs} pairs, lowest and highest)", f"{low:.2f} {high:.2f}", "", True


def subjects() -> Iterator[tuple[str, Any, str, int]]:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from bench.models.registry import open_model

    torch.manual_seed(0)
    minilm, _ = open_model("minilm", Path()).load("AutoModelForSequenceClassification", {"num_labels": 10})
    small = BertForSequenceClassification(
        BertConfig(
            vocab_size=1000,
            hidden_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=384,
            num_labels=10,
        )
    )
    yield "a step of 10 ms, full", small, "full", 60
    yield "MiniLM, full", minilm, "full", 6
    yield "MiniLM, LoRA", minilm, "lora(r=8)", 6


def premade(model: Any, count: int) -> list[Any]:
    import torch

    from bench.tasks.base import Batch

    torch.manual_seed(1)
    return [
        Batch(
            {"input_ids": torch.randint(200, 900, (16, 48)), "attention_mask": torch.ones(16, 48, dtype=torch.long)},
            torch.randint(0, 10, (16,)), (48,) * 16, (1,) * 16, tuple(range(16)),
        )
        for _ in range(count)
    ]  # fmt: skip


def our_loop(model: Any, recipe: str, batches: list[Any], steps: int) -> Callable[[], float]:
    from bench.machine import machine
    from bench.recipe import recipe as recipes
    from bench.stage.loop import Training
    from bench.suite.suite import Budget
    from bench.tasks.sources.stdlib_topics import StdlibTopics

    class Premade(Training):
        def batches(self, split: Any = "train", *, shuffle: bool = True) -> Iterator[Any]:
            return itertools.cycle(batches)

    def run() -> float:
        training = Premade(
            model=copy.deepcopy(model), tokenizer=None, task=StdlibTopics(), stage=recipes.parse(recipe).stages[0], before=(),
            budget=Budget(steps=steps, batch_size=16), machine=machine.look("cpu", THREADS), seed=0,
        )  # fmt: skip
        training.prepare()
        gc.collect()
        began = time.perf_counter()
        training.run()
        return time.perf_counter() - began

    return run


def prepared(model: Any, recipe: str) -> Any:
    """The same model for the others: LoRA put on by PEFT itself."""
    import peft

    model = copy.deepcopy(model)
    if recipe.startswith("lora"):
        model = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, lora_dropout=0.0))
    return model


def bare_loop(model: Any, recipe: str, batches: list[Any], steps: int) -> Callable[[], float]:
    import torch

    def run() -> float:
        ours = prepared(model, recipe)
        optimizer = torch.optim.AdamW([p for p in ours.parameters() if p.requires_grad], lr=2e-4, fused=True)
        stream = itertools.cycle(batches)
        ours.train()
        gc.collect()
        began = time.perf_counter()
        for _ in range(steps):
            batch = next(stream)
            loss = torch.nn.functional.cross_entropy(ours(**batch.inputs).logits, batch.labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - began

    return run


def hf_trainer(model: Any, recipe: str, batches: list[Any], steps: int) -> Callable[[], float]:
    import transformers

    items = [
        {**{name: tensor[item] for name, tensor in batch.inputs.items()}, "labels": batch.labels[item]}
        for batch in batches
        for item in range(16)
    ]

    def run() -> float:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            arguments = transformers.TrainingArguments(
                folder, max_steps=steps, per_device_train_batch_size=16, optim="adamw_torch_fused", learning_rate=2e-4,
                lr_scheduler_type="constant", max_grad_norm=0.0, save_strategy="no", logging_strategy="no", report_to=[],
                disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
            )  # fmt: skip
            trainer = transformers.Trainer(prepared(model, recipe), arguments, train_dataset=items)
            times: list[float] = []

            class Clock(transformers.TrainerCallback):
                def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
                    gc.collect()
                    times.append(time.perf_counter())

                def on_train_end(self, *args: Any, **kwargs: Any) -> None:
                    times.append(time.perf_counter())

            trainer.add_callback(Clock)
            trainer.train()
            return times[1] - times[0]

    return run


# -- processes -----------------------------------------------------------------------------------------------------


def _loaded() -> float:
    """Load the model as a stage does; when it is there."""
    import peft  # noqa: F401

    import bench.stage.stage  # noqa: F401
    from bench.models.registry import open_model

    open_model("minilm", Path()).load("AutoModelForSequenceClassification", {"num_labels": 10})
    return time.monotonic()


def _load(connection: Any, began: float) -> None:
    connection.send(_loaded() - began)


def start(options: argparse.Namespace) -> Iterator[tuple[str, str, str, bool]]:
    """From asking for an isolated process until the model is loaded there."""
    from bench.execute.forkserver import ForkServer, _without_main
    from bench.execute.imports import Imports
    from tests.overhead import _load  # by a name that the server's child can import

    server = ForkServer(Imports(("peft",), ("bert",)))

    def warm() -> float:
        ours, theirs = server._context.Pipe(duplex=False)
        with _without_main():
            process = server._context.Process(target=_load, args=(theirs, time.monotonic()))
            process.start()
        seconds: float = ours.recv()
        process.join()
        return seconds

    def cold() -> float:
        began = time.monotonic()
        code = "from tests.overhead import _loaded; print(_loaded())"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return float(out.stdout.split()[-1]) - began

    warm(), cold()
    ratio, _, _ = paired(cold, warm, options.pairs)
    seconds = median(warm() for _ in range(9))
    yield "an isolated node's loaded model, over a cold process's", f"1/{1 / ratio:.0f}", "≤ 1/20", ratio <= 1 / 20
    yield "  (seconds, on this machine now)", f"{seconds:.3f}", "≤ 0.15", seconds <= 0.15


def commands(options: argparse.Namespace) -> Iterator[tuple[str, str, str, bool]]:
    """Start-up of the commands that must not import torch."""
    methodbench = str(Path(sys.executable).parent / "methodbench")
    # Whatever this shell says: a user's second start finds the bytecode that the first one left.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def seconds(*command: str) -> float:
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=environment)
        return time.perf_counter() - began

    for words in (["--help"], ["list", "methods"], ["plan", "suites/encoder.toml"]):
        seconds(methodbench, *words)
        both = [(seconds(sys.executable, "-c", "pass"), seconds(methodbench, *words)) for _ in range(options.pairs)]
        bare, ours = (median(side) for side in zip(*both, strict=True))
        yield f"methodbench {' '.join(words)}, s", f"{ours:.2f}", f"≤ {3 * bare + 0.3:.2f}", ours <= 3 * bare + 0.3


# -- records and reports -------------------------------------------------------------------------------------------


def reports(options: argparse.Namespace) -> Iterator[tuple[str, str, str, bool]]:
    """A report over 10,000 records against one over 1,000, and its memory."""
    from reports import render
    from tests import synthetic

    with tempfile.TemporaryDirectory() as folder:
        sides = {count: Path(folder) / str(count) for count in (1000, 10_000)}
        for count, side in sides.items():
            synthetic.write(synthetic.sized(count), side)

        def timed(count: int) -> float:
            began = time.perf_counter()
            render(sides[count], "html")
            return time.perf_counter() - began

        timed(1000)
        ratio, _, _ = paired(lambda: timed(1000), lambda: timed(10_000), 3)
        yield "a report over 10,000 records, over one over 1,000", f"{ratio:.1f}", "≤ 10", ratio <= 10
        code = (
            f"from reports import render; render({str(sides[10_000])!r}, 'html')\n"
            "print(dict(line.split(':') for line in open('/proc/self/status'))['VmHWM'].split()[0])"
        )
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
        megabytes = int(out.stdout.split()[-1]) / 1000
        yield "  its peak memory, MB", f"{megabytes:.0f}", "< 500", megabytes < 500


def suite(options: argparse.Namespace) -> Iterator[tuple[str, str, str, bool]]:
    """What sharing prefixes saves, and what is spent outside of stages, from the records of a whole run."""
    from bench.record.reading import read

    if not (options.records / "records.jsonl").exists():
        print(f"(no records in {options.records}: run `nox -s bench` first for the two figures of a whole suite)")
        return
    records = read(options.records)
    run = records.runs[-1]
    stage = {id_: node["seconds"]["total"] for id_, node in records.nodes.items() if node["run"] == run["run"]}
    whole = records.ends[run["run"]]["seconds"]
    paths = [cell["path"] for cell in run["cells"] if not cell["refused"]]
    if not all(node in stage for path in paths for node in path):
        print(
            f"(the last run in {options.records} resumed an earlier one: `methodbench run --fresh` for these figures)"
        )
        return
    alone = sum(stage[node] for path in paths for node in path)
    yield "wall time of the suite over its recipes' alone", f"{whole / alone:.2f}", "≤ 0.6", whole / alone <= 0.6
    outside = 1 - sum(stage.values()) / whole
    yield "wall time outside of stages", f"{100 * outside:.1f} %", "≤ 5 %", outside <= 0.05


if __name__ == "__main__":
    main()
