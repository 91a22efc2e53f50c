"""One stage in its own process: load, apply or train, prove, evaluate, save.

Runs where :mod:`bench.execute.worker` puts it. Everything that is measured here is raw; figures are derived when read.
"""

from __future__ import annotations

import contextlib
import math
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy
import torch

from bench.distributed.group import Group
from bench.measure import flops, lm_eval, memory, size, trust
from bench.measure.absent import Absent, let_go
from bench.measure.clock import StepClock
from bench.measure.peak import Peak, touch
from bench.measure.wire import Wire
from bench.metrics.metric import is_steady
from bench.metrics.registry import check_declared
from bench.models import architecture, structure
from bench.models.base import Model
from bench.models.names import plain
from bench.recipe import recipe
from bench.recipe.facts import facts_after, ships_without_base_model, stages_before_compression, stages_in_effect
from bench.recipe.method import Method, Trainer, Transform
from bench.stage import checkpoint, evidence, resume
from bench.stage.evidence import Claim, Snapshot, named_tensors, of_training, whole_numel
from bench.stage.job import Job, Progress
from bench.stage.loop import Training
from bench.stage.validate import Validation
from bench.stage.work import Work
from bench.tasks.base import Answers, Retention, Task
from bench.tasks.lm_eval import names_in
from bench.tasks.registry import open_task

T = TypeVar("T")


def run(
    job: Job, progress: Progress, group: Group | None = None, measured: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Run `job` and leave the model in ``job.output``; what was `measured`, and is filled in, goes into the record.

    A measure that fails is absent, with its reason in ``absent``; all else is as if it had not been asked for.

    Where a `group` of processes trains together, each runs this. They go hand in hand through the training and its
    evidence; from there on the model is a plain one, and the first process goes on alone.
    """
    group = group or Group()
    measured = {} if measured is None else measured
    seconds = Stopwatch()
    measured["seconds"] = seconds.total
    if job.machine.device == "cuda":
        measured["gpus"] = _cards()
    stages = job.stages
    source, task = opened(job)
    peak = Peak(torch.device(job.machine.device), stages[-1].gpus_each)

    work = begin(job, source, task, progress, group, seconds)
    if isinstance(work, Training):
        before = _train(work, job, peak, seconds, measured)
    else:
        before = _transform(work, job, peak, seconds, measured)
    tokenizer = work.tokenizer

    progress("prove", 0, 1)
    # Methods look into a training's forward pass with hooks on modules, which compiled code leaves out.
    stance = torch.compiler.set_stance("force_eager" if isinstance(work, Training) else "default")
    with seconds("evidence"), stance:
        # Those that divide the stage come first: what the others look at may have to be put together before.
        methods = sorted(stages[-1].methods, key=lambda method: getattr(method, "axis", None) is None)
        claims = [claim for method in methods for claim in evidence.claims(method, "evidence", before, work)]
        if isinstance(work, Training):
            claims += [(work.trainer.name, claim) for claim in of_training(before, work)]
            claims += [(work.trainer.name, claim) for claim in _new_weights_train(work)]
            claims += [
                claim for kept in work.carried for claim in evidence.claims(kept, "retention_evidence", before, work)
            ]
            work.optimizer.zero_grad(set_to_none=True)
            work.finish()
            claims += [claim for method in work.methods for claim in evidence.claims(method, "removal_evidence", work)]
        claims = _of_all(group.all_gather(claims))
        proven = [{"method": name, **asdict(claim)} for name, claim in claims]
        measured["evidence"] = [*measured.get("evidence", ()), *proven]
    work.model.eval()
    group.close()
    if group.rank > 0 or not all(claim.holds for _, claim in claims):
        # The first process alone goes on; and not where what is there is not what the recipe says, for then nothing
        # else of it is worth a figure, or may be one at all.
        return measured

    # What trained is let go of first, so that evaluation has its memory.
    trained = work.model
    del work, before
    let_go()
    absent = Absent(measured)
    answers: Answers = []
    if job.measure.quality and source.pretrained:
        progress("evaluate", 0, 1)
        with seconds("evaluate"), absent("quality"):
            quality = task.evaluate(
                trained,
                tokenizer,
                batch_size=job.budget.eval_batch_size,
                max_length=job.budget.max_length,
                split=job.measure.split,
                uncompressed=_answering_the_same(job, task, stages),
                answers=answers,
            )
            measured["quality"] = asdict(quality)
        _check_quality(task, measured.get("quality"))
    progress("save", 0, 1)
    with seconds("save"):
        with absent("weight_bytes"):
            measured["weight_bytes"] = memory.storage_bytes(trained)
        with absent("parameters", "nonzero_parameters"):
            measured["parameters"] = memory.parameter_counts(trained)
        if job.measure.size:
            unsaid: list[tuple[str, Claim]] = []
            savers = [
                _saver(method, unsaid) for stage in reversed(stages_in_effect(stages)) for method in stage.methods
            ]
            if "adapter" in facts_after(stages) and not ships_without_base_model(stages):
                savers.insert(0, size.whole)
            with absent("size_on_disk"), tempfile.TemporaryDirectory(prefix="methodbench-") as folder:
                measured["size"] = size.on_disk(trained, Path(folder), savers)
            measured["evidence"] += [{"method": name, **asdict(claim)} for name, claim in unsaid]
        checkpoint.save(job.output, trained, tokenizer, answers)
    if source.pretrained and (names := names_in(job.measure.quality)):
        progress("lm-eval", 0, 1)
        # After the model was saved, so that nothing that another library does with it is in what is served.
        with seconds("lm_eval"), absent("lm_eval"):
            measured["lm_eval"] = lm_eval.evaluate(
                trained,
                tokenizer,
                names,
                job.suite_folder,
                batch_size=job.budget.eval_batch_size,
                note=absent.note,
            )
    if job.measure.retain is not None and source.pretrained:
        progress("retain", 0, 1)
        with seconds("retain"), absent("forgetting"):
            measured["retained"] = {"after": _retained(trained, tokenizer, job)}
            if job.input is None:
                # Last of all, so that nothing of it is in what the training held or took; a model that arrives with
                # its head is the same each time that it is loaded.
                del trained
                arrived, _ = source.load(*task.model_options())
                measured["retained"]["before"] = _retained(arrived.to(job.machine.device), tokenizer, job)
    return measured


def opened(job: Job) -> tuple[Model, Task]:
    """The model and the task of `job`. What it takes to load them is imported, so that no peak of memory has it in."""
    from bench.tasks import tokens  # noqa: F401 -- which has the data's library

    source, task = job.source(), open_task(job.task, job.suite_folder)
    if job.input is None:
        # Where no one has looked at the model yet, as on another machine, this does.
        structure.of(source, job.model, job.suite_folder, *task.model_options())
    return source, task


def begin(
    job: Job,
    source: Model,
    task: Task,
    progress: Progress,
    group: Group,
    seconds: Stopwatch,
    clock: StepClock | None = None,
) -> Work:
    """The last stage of `job` with its model loaded, before anything is done to it; a :class:`Training` where it trains.

    Nothing but what it returns holds the model.
    """
    *before, stage = job.stages
    progress("load", 0, 1)
    seed_everything(job.seed)
    with seconds("load"):
        model, tokenizer = checkpoint.load(job.input) if job.input is not None else source.load(*task.model_options())
        model.to(job.machine.device)
        touch(model)
    seed = seed_of(job, len(job.stages))
    common: dict[str, Any] = {
        "model": model,
        "tokenizer": tokenizer,
        "task": task,
        "stage": stage,
        "before": tuple(before),
        "budget": job.budget,
        "machine": job.machine,
        "seed": seed,
        "suite_folder": job.suite_folder,
        "progress": progress,
        "arrived": source.facts(),
    }
    seed_everything(seed)
    if isinstance(stage.main, Trainer):
        return Training(group=group, clock=clock, **common)
    return Work(**common)


def seed_of(job: Job, number: int) -> int:
    """Each stage of a recipe, by its `number` from 1, draws its own order of data; all recipes with the job's seed the same."""
    return job.seed * 1000 + number


def begin_training(training: Training) -> None:
    """Whatever a method drew while it was put on, recipes that share a seed see the same dropout from here on.

    Who holds another slice of the batch drops other things.
    """
    seed_everything(training.seed + 2**20 * training.group.batch_part)


def _saver(method: Method, unsaid: list[tuple[str, Claim]]) -> size.Saver:
    """A method's ``save``; where what it says is not what it did, that is a claim that does not hold, in `unsaid`."""

    def save(model: torch.nn.Module, folder: Path) -> bool:
        said, wrote = method.save(model, folder), any(folder.iterdir())
        if said is not wrote:
            text = "`save` writes what a user would ship and says so, or leaves that to others"
            seen = f"it says {said}, and there are {'' if wrote else 'no '}files"
            unsaid.append((method.name, Claim(text, False, seen)))
        return wrote

    return save


def _new_weights_train(training: Training) -> Iterator[Claim]:
    """What transformers drew at random for the task must train, whichever recipe it is: else its rows do not compare."""
    new = {plain(name) for name in architecture.new_parameters(training.model)}
    if new:
        trained = {name for name, tensor in named_tensors(training.model).items() if tensor.requires_grad}
        text = "all weights that no file held, and that were drawn at random for the task, train"
        yield Claim(text, new <= trained, f"{len(new & trained)} of {len(new)} tensors")


def _cards() -> list[dict[str, str]]:
    """The GPUs that the stage has, by what tells them from others of their kind."""
    found = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [{"name": card.name, "uuid": str(card.uuid)} for card in found]


def _check_quality(task: Task, quality: dict[str, Any] | None) -> None:
    """What `task` returned is what it declares; what is not declared would be in no report.

    Raises:
        MetricError: it returned more.
    """
    who = f"the task {task.name} returns"
    declared = (*task.metrics, *Retention.figures)
    check_declared((quality or {}).get("metrics", ()), declared, who, f"`metrics` of {type(task).__qualname__}")


def _retained(model: torch.nn.Module, tokenizer: Any, job: Job) -> dict[str, Any]:
    """How good `model` is at the task that it is not to forget."""
    assert job.measure.retain is not None
    quality = open_task(job.measure.retain, job.suite_folder).evaluate(
        model.eval(), tokenizer, batch_size=job.budget.eval_batch_size, max_length=job.budget.max_length
    )
    return asdict(quality)


def seed_everything(seed: int) -> None:
    """Python, NumPy and torch, every device."""
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class Stopwatch:
    """Seconds by name, wall time: ``with stopwatch("load"): …``.

    Those of earlier processes, which its state has, are in them; ``earlier`` are all that those took until they were saved.
    """

    def __init__(self) -> None:
        self.total: dict[str, float] = {}
        self._began = time.perf_counter()

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the block's time to `name`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._add(name, time.perf_counter() - started)

    def each(self, name: str, items: Iterator[T]) -> Iterator[T]:
        """`items`, and the time to the next one is added to `name`; what is done with one is left out."""
        while True:
            with self(name):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def state_dict(self) -> dict[str, float]:
        """All seconds so far."""
        so_far = self.total.get("earlier", 0.0) + time.perf_counter() - self._began
        return {**self.total, "earlier": so_far}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Add those of earlier processes."""
        for name, seconds in state.items():
            self._add(name, seconds)

    def _add(self, name: str, seconds: float) -> None:
        self.total[name] = self.total.get(name, 0.0) + seconds


def uncompressed_model(job: Job, task: Task) -> torch.nn.Module | None:
    """The model that the recipe's compression began with, in evaluation mode; None where nothing was compressed."""
    if stages_before_compression(job.stages) is None:
        return None
    if job.uncompressed is not None:
        model, _ = checkpoint.load(job.uncompressed)
    else:
        seed_everything(job.seed)
        model, _ = job.source().load(*task.model_options())
    return model.to(job.machine.device).eval()


def _answering_the_same(job: Job, task: Task, stages: tuple[recipe.Stage, ...]) -> torch.nn.Module | Answers | None:
    """The uncompressed model, or its answers, if it is to give the answers that the compressed one gives.

    One that was not trained for the task yet when it was compressed has no answers to keep once the other was.
    Answers that its own evaluation kept are as good as the model, and take no time.
    """
    whole = stages_before_compression(stages)
    trained_since = any(isinstance(stage.main, Trainer) for stage in stages[whole:])
    if whole == 0 and trained_since:
        return None
    kept = [] if whole is None or job.uncompressed is None else checkpoint.answers(job.uncompressed)
    return kept or uncompressed_model(job, task)


def _train(training: Training, job: Job, peak: Peak, seconds: Stopwatch, measured: dict[str, Any]) -> Snapshot:
    with seconds("evidence"):
        before = training.snapshot()
    with seconds("prepare"):
        training.prepare()
    with seconds("evidence"):
        training.began = evidence.marks(training.model)
    begin_training(training)
    contention = trust.Contention(training.device, training.stage.gpus_each)
    every = job.budget.eval_steps
    # A task that a trainer made of the texts, as pretraining does, is scored by its loss alone.
    scored = every if training.task.primary else None
    validation = Validation(training, scored, keeps=job.budget.load_best_model_at_end) if scored else None
    beside = {"validation": validation} if validation else {}
    checkpoints = resume.Checkpoints(training, job, contention, seconds=seconds, **beside)
    with seconds("resume"):
        checkpoints.go_on()
    with contention:
        peak.start()
        for number, _ in enumerate(seconds.each("train", training.each_step())):
            if number == 0:
                peak.pause()
            if validation and validation.due():
                with seconds("validate"), peak.outside():
                    validation.score()
            if checkpoints.due():
                with seconds("checkpoint"):
                    checkpoints.save()
    result: dict[str, Any] = {
        "step_seconds": training.step_seconds,
        "tokens": training.tokens,
        "samples": training.samples,
        "losses": [float(loss) for loss in training.losses],
        # A short training still has steady steps left after its warm-up.
        "warmup": min(job.budget.warmup_steps, len(training.losses) // 2),
        "trainable": sum(map(whole_numel, training.parameters)),
        "data_seconds": training.data_seconds,
        "figures": training.figures.data,
        "resumed": training.resumed,
    }
    if validation:
        result["validation"] = validation.curve
    measured |= {"training": result, "trust": {"training": checkpoints.trust()}}
    # Where several processes go hand in hand, none can leave a step out.
    absent = Absent(measured, strict=training.group.mesh is not None)
    if not any(is_steady(result)):
        why = f"it was stopped so often that no step comes after a warm-up of {result['warmup']} steps"
        absent.note(why, "train_tokens_per_second")
    with seconds("count"):
        if job.measure.memory:
            with absent("train_peak_bytes"):
                result["peak_bytes"] = _peak(training, peak)
                if peak.reason:
                    absent.note(peak.reason, "train_peak_bytes")
            with absent("optimizer_bytes"):
                result["optimizer_bytes"] = memory.optimizer_bytes(training.optimizer)
        _count(training, job, result, absent)
        _together(training, result)
    if validation and validation.keeps:
        with seconds("validate"):
            claim = validation.restore()
        measured["evidence"] = [{"method": training.trainer.name, **asdict(claim)}]
    return before


def _peak(training: Training, peak: Peak) -> int | None:
    """The peak of the training. On a CPU, of its first step and of one more, on its largest batch, that is not taken.

    The first has what an update takes; the other what it then left, and most activations.
    """
    if peak.paused:
        assert training.largest is not None
        training.model.train()
        with _untaken(training):
            peak.resume()
            training.gradients(training.largest, 1.0)
            peak.pause()
    return peak.stop()


def _count(training: Training, job: Job, result: dict[str, Any], absent: Absent) -> None:
    """Gradient and activation bytes and FLOPs, of one more step that is not taken.

    Bytes are those of a real step, which holds no more than the training's did. FLOPs take no memory
    (:mod:`bench.measure.flops`).
    """
    training.model.train()
    probe = training.probe  # made before tensors have no numbers, if it is not yet
    if job.measure.flops:
        with absent("step_flops"), _untaken(training):
            result["step_flops"] = flops.count(
                lambda: training.gradients(probe, 1.0),
                lambda: training.optimizer.zero_grad(set_to_none=True),
                fake=training.group.mesh is None,
            )
    if job.measure.memory or job.measure.flops:
        # After FLOPs, for what hooks keep of the last step they saw is then of a real one.
        with absent("activation_bytes", "gradient_bytes"), _untaken(training):
            with memory.saved_activations(torch.nn.ModuleList([training.model, *training.beside])) as saved:
                training.gradients(probe, 1.0)
            if job.measure.memory:
                result["activation_bytes"] = saved.bytes
                with absent("gradient_bytes"):
                    result["gradient_bytes"] = memory.gradient_bytes(training.parameters)


@contextlib.contextmanager
def _untaken(training: Training) -> Iterator[None]:
    """A step that leaves nothing: no gradient, and no draw of random numbers."""
    with torch.random.fork_rng():
        try:
            yield
        finally:
            training.optimizer.zero_grad(set_to_none=True)


def _together(training: Training, result: dict[str, Any]) -> None:
    """Put the figures of all processes together in `result`; what each held, sent and took stays under ``ranks``.

    A step takes as long as the process that is slowest in it, so that a rate is never too high. Of bytes the figure is
    what the process held that held most, as each must fit; the operations of all add up.
    """
    group = training.group
    if group.mesh is None:
        return
    with _untaken(training), Wire() as wire:
        training.gradients(training.probe, 1.0)
    own = ("step_seconds", *_BYTES, "step_flops")
    mine = {name: result[name] for name in own if name in result}
    mine |= {
        "weight_bytes": memory.storage_bytes(training.model),
        "communicated_bytes": round(wire.sent),
        "collectives": wire.table(),
    }
    gathered = group.all_gather((mine, result["losses"]))
    ranks = [own for own, _ in gathered]
    result["ranks"] = ranks
    result["step_seconds"] = [max(step) for step in zip(*(rank["step_seconds"] for rank in ranks), strict=True)]
    # Each process's loss is of its slice, weighted so that the mean is the whole batch's.
    result["losses"] = [math.fsum(step) / group.size for step in zip(*(losses for _, losses in gathered), strict=True)]
    for name in (*_BYTES, "communicated_bytes"):
        result[name] = max((rank[name] for rank in ranks if rank.get(name) is not None), default=None)
    if "step_flops" in result:
        result["step_flops"] = sum(rank["step_flops"] for rank in ranks)


_BYTES = ("peak_bytes", "optimizer_bytes", "gradient_bytes", "activation_bytes")


def _of_all(said: list[list[tuple[str, Claim]]]) -> list[tuple[str, Claim]]:
    """The first process's claims, and those that do not hold in another alone."""
    claims = list(said[0])
    for rank, others in enumerate(said[1:], start=1):
        failed = {(name, claim.text) for name, claim in claims if not claim.holds}
        claims += [
            (name, replace(claim, seen=f"process {rank}: {claim.seen}"))
            for name, claim in others
            if not claim.holds and (name, claim.text) not in failed
        ]
    return claims


def _transform(work: Work, job: Job, peak: Peak, seconds: Stopwatch, measured: dict[str, Any]) -> Snapshot:
    transform = work.stage.main
    assert isinstance(transform, Transform)
    with seconds("evidence"):
        before = work.snapshot()
    work.progress("apply", 0, 1)
    with seconds("apply"):
        peak.start()
        transform.apply(work)
        peak_bytes = peak.stop()
    if work.figures:
        measured["transform"] = {"figures": work.figures.data}
    if work.calibration:
        measured.setdefault("transform", {})["calibration"] = dict(work.calibration)
    if job.measure.memory:
        measured.setdefault("transform", {})["peak_bytes"] = peak_bytes
        if peak.reason:
            Absent(measured).note(peak.reason, "transform_peak_bytes")
    return before
