"""What the lines of a records file hold: a class a part, and each field with its type and meaning.

A file may hold lines of the right kind that a disk, another program or a hand has damaged inside: whatever is read has its
type here, and a line that has another is left out. ``Any`` is written for readers and read by nothing, so it may be
anything; a field that is not named here is kept too. ``docs/record-format.md`` is made of this (:mod:`bench.record.format`).

Parts are dataclasses with slots that pydantic checks: as quick as checking dictionaries, and a fifth of the size of its models.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, ConfigDict, Field, Strict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from bench.measure.turns import log_ratio
from bench.metrics.metric import is_steady

SCHEMA = 2
# The history of the format. A reader knows every schema up to its own, and refuses a newer one rather than
# misread it; what an older reader may safely overlook (one more key) needs no new number.
#
#   1  methodbench 0.1.0. Kinds of line: "run" (a run began), "node" (a stage ended, whatever its end), "end"
#      (a run ended). Seconds, bytes and counts without prefix; times of day in ISO 8601, UTC. JSON has no NaN
#      and no infinity, so both are null, which in the list of losses is read as NaN.
#   2  A run's `reference` is called `baseline`, a latency's `reference` `uncompressed`, a node's `alone` `single_process`.
#      A kind of line, "turns": two trainings were timed in turns.

Status = Literal["ok", "refused", "timeout", "oom", "diverged", "failed", "invalid"]
"""The ends of a stage, from the best to the worst."""

STATUSES: tuple[Status, ...] = get_args(Status)

LARGEST = 1e100
"""Beyond all that is measured, and small enough for squares."""


def _loss(value: float) -> float:
    """A loss that is not finite was written as null, and is read as NaN."""
    if abs(value) > LARGEST:
        raise ValueError(f"it is above {LARGEST:g}")
    return value


Text = Annotated[str, Strict()]
Flag = Annotated[bool, Strict()]
Whole = Annotated[int, Strict()]
Natural = Annotated[int, Strict(), Field(ge=0, le=2**63)]
Positive = Annotated[int, Strict(), Field(ge=1, le=2**63)]
Number = Annotated[float, Strict(), Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Finite = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Amount = Annotated[float, Strict(), Field(ge=0, le=LARGEST, allow_inf_nan=False)]
Above0 = Annotated[float, Strict(), Field(gt=0, le=LARGEST, allow_inf_nan=False)]
Seconds = Annotated[float, Strict(), Field(gt=1e-15, le=1e15, allow_inf_nan=False)]
Loss = Annotated[float, Strict(), AfterValidator(_loss)]
Versions = dict[Text, Text] | list[Annotated[list[Text], Field(min_length=2, max_length=2)]]


# -- parts of a stage's record -----------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Held:
    """What one process of a training held and did."""

    peak_bytes: Number | None = Field(
        None, description="peak of memory above what was held before the model was loaded"
    )
    weight_bytes: Number | None = Field(
        None, description="storage of parameters and buffers; of each of several processes alone, else the node has it"
    )
    gradient_bytes: Number | None = Field(None, description="storage of the gradients of one step")
    optimizer_bytes: Number | None = Field(None, description="storage of the optimizer's state")
    activation_bytes: Number | None = Field(None, description="storage of what autograd saves for the backward pass")
    communicated_bytes: Number | None = Field(
        None, description="bytes that it sends to the other processes a step; of each of several alone"
    )
    step_flops: Number | None = Field(None, description="floating point operations of a step")
    trainable: Number | None = Field(None, description="elements that are updated")


@dataclass(slots=True, kw_only=True)
class Validation:
    """A score on the validation split while a model trained."""

    step: Natural = Field(description="steps taken before it")
    metrics: dict[Text, Finite | None] = Field(description="each metric of the task by its name")


@dataclass(slots=True, kw_only=True)
class Training(Held):
    """A training: an item of each list is a step."""

    step_seconds: list[Amount] = Field(description="wall time of each step, data loading left out")
    tokens: list[Amount] = Field(description="real tokens of each step, padding left out")
    samples: list[Amount] = Field(description="items of each step")
    warmup: Natural = Field(description="steps at the beginning of each process that no rate counts")
    losses: list[Loss | None] | None = Field(None, description="mean loss of each step in nats; null where not finite")
    validation: list[Validation] | None = Field(None, description="of budget.eval_steps, in the order of steps")
    figures: dict[Text, Finite | None] | None = Field(None, description="what methods measured, by name")
    resumed: list[Natural] | None = Field(
        None, description="numbers of steps, from 0, before which the training went on in another process"
    )
    ranks: list[Held] | None = Field(None, description="each process of several that trained together")

    def __post_init__(self) -> None:
        if len({len(self.step_seconds), len(self.tokens), len(self.samples)}) > 1:
            raise ValueError("step_seconds, tokens and samples are of different lengths")
        if self.resumed and [*self.resumed, len(self.tokens)] != sorted({*self.resumed, len(self.tokens)}):
            raise ValueError("resumed are not numbers of steps, each above the one before it")

    @property
    def steady_seconds(self) -> list[float]:
        """Of the steady steps."""
        steady = is_steady({"step_seconds": self.step_seconds, "warmup": self.warmup, "resumed": self.resumed})
        return list(itertools.compress(self.step_seconds, steady))


@dataclass(slots=True, kw_only=True)
class Samples:
    """Timings of one model."""

    values: list[Seconds] = Field(min_length=1, description="seconds of each sample")
    warmups: Any = Field(None, description="seconds of the samples before those")
    loops: Any = Field(None, description="inferences a sample")


@dataclass(slots=True, kw_only=True)
class Latency(Samples):
    """Timings of one shape by one clock in one process."""

    phase: Literal["forward", "prefill", "decode"] = Field("forward", description="what was timed")
    batch: Positive = Field(description="texts at once")
    length: Positive = Field(description="tokens of each text")
    clock: Literal["wall", "cpu"] = Field(description="wall time, or CPU time of the process on one thread")
    threads: Any = Field(None, description="CPU threads")
    unit: Any = Field(None, description="of the values, as pyperf calls it")
    process: Any = Field(None, description="number of the process that measured")
    uncompressed: Samples | None = Field(
        None, description="the uncompressed model; its n-th value was taken beside the n-th of this model's"
    )

    def __post_init__(self) -> None:
        if self.uncompressed is not None and len(self.uncompressed.values) != len(self.values):
            raise ValueError("uncompressed.values are not as many as values")


class Merging:
    """A part that several processes measure. It keeps what it has no field for, so that nothing is lost in between."""

    def written(self) -> dict[str, Any]:
        """As it stands in a record; what there is nothing of is left out."""
        parts = {name: value.written() if isinstance(value, Merging) else value for name, value in vars(self).items()}
        return {name: value for name, value in parts.items() if value is not None}


_merging = ConfigDict(extra="allow")


@dataclass(kw_only=True, config=_merging)
class Inference(Merging):
    """Inference, in processes of its own."""

    peak_bytes: Number | None = Field(
        None, description="peak of memory above what was held before the model was loaded"
    )
    load_peak_bytes: Number | None = Field(None, description="the same, while the model was loaded")
    compile_seconds: Number | None = Field(None, description="wall time of torch.compile")

    def merged(self, other: Inference) -> Inference:
        """The most that either process took."""
        ours, theirs = vars(self), vars(other)
        both = {name: [each[name] for each in (ours, theirs) if each.get(name) is not None] for name in ours | theirs}
        return Inference(**{name: max(values, default=None) for name, values in both.items()})


@dataclass(kw_only=True, config=_merging)
class Contention(Merging):
    """Whether a timing can be trusted. The figures that it is judged by stand beside it."""

    contended: Flag = Field(False, description="whether something else took the machine's time meanwhile")
    reason: Text | None = Field(None, description="what that was")

    @property
    def against(self) -> str | None:
        """Why the timing is not to be trusted; None where it is."""
        return (self.reason or "the machine was busy") if self.contended else None

    def merged(self, other: Contention) -> Contention:
        """What one process says against a timing stands, whatever the other says."""
        return self if self.contended else other

    def crowded(self) -> Contention:
        """The same, of a timing that was taken while another stage ran on the machine, whatever its load said."""
        reasons = [reason for reason in (self.reason, "another stage ran beside it") if reason]
        return Contention(**{**vars(self), "contended": True, "reason": "; ".join(reasons)})


@dataclass(kw_only=True, config=_merging)
class Trust(Merging):
    """Of each kind of timing, whether it can be trusted."""

    training: Contention | None = Field(None, description="of the steps")
    latency: Contention | None = Field(None, description="of inference")

    def merged(self, other: Trust) -> Trust:
        """Both processes' words on each."""
        found = {**vars(self), **{name: value for name, value in vars(other).items() if value is not None}}
        for name in ("training", "latency"):
            ours, theirs = getattr(self, name), getattr(other, name)
            found[name] = ours.merged(theirs) if ours and theirs else ours or theirs
        return Trust(**found)

    def crowded(self) -> Trust:
        """The same, of timings that were taken while another stage ran on the machine."""
        parts = {
            name: value.crowded() if isinstance(value, Contention) else value for name, value in vars(self).items()
        }
        return Trust(**parts)


@dataclass(slots=True, kw_only=True)
class Quality:
    """How good the model is on the test split."""

    metrics: dict[Text, Finite | None] | None = Field(None, description="each metric by its name")
    correct: list[Number] | None = Field(
        None, description="of each test item, 1 where it is right and 0 where not, or its loss"
    )
    predictions: Any = Field(None, description="of each test item, the class that the model chose")
    extra: Any = Field(None, description="what else the kind of task counts")


@dataclass(slots=True, kw_only=True)
class LmEvalScore:
    """One metric of one task, or of a group of them."""

    task: Any = Field(None, description="its name")
    metric: Any = Field(None, description="its name")
    filter: Any = Field(None, description="how answers are read, as lm-eval calls it")
    shots: Any = Field(None, description="examples before each item")
    value: Finite | None = Field(None, description="the score")
    items: list[Number] | None = Field(
        None, description="what each item adds to it, in the task's order; empty where it is not their mean"
    )


@dataclass(slots=True, kw_only=True)
class LmEval:
    """How good the model is by tasks of lm-eval."""

    version: Any = Field(None, description="of lm-eval")
    scores: dict[Text, LmEvalScore] | None = Field(None, description="by the metric's name here, without `lm_eval_`")


@dataclass(slots=True, kw_only=True)
class RetainedLoss:
    """The cross entropy of a task."""

    nats: Number | None = Field(None, description="the sum over all tokens; null where not finite")
    tokens: Above0 | None = Field(None, description="how many")


@dataclass(slots=True, kw_only=True)
class RetainedQuality:
    """How good the model is on a task that it is not to forget."""

    extra: RetainedLoss | None = Field(None, description="its cross entropy")


@dataclass(slots=True, kw_only=True)
class Retained:
    """What is left of a task that the model knew."""

    before: RetainedQuality | None = Field(None, description="of the model before the first stage, which alone has it")
    after: RetainedQuality | None = Field(None, description="of the model after this stage")


@dataclass(slots=True, kw_only=True)
class Claim:
    """One thing that must hold if a method was applied."""

    method: Text = Field(description="the method's name")
    text: Text = Field(description="what must hold")
    holds: Flag = Field(description="whether it does")
    seen: Text = Field(description="what was seen")


@dataclass(slots=True, kw_only=True)
class Calibration:
    """The data that a compression looked at."""

    name: Any = Field(None, description="of the task whose training items they are, or of the file")
    fingerprint: Any = Field(None, description="of the data")
    samples: Any = Field(None, description="items that were looked at")
    items: Any = Field(None, description="how many of these are different")
    tokens: Any = Field(None, description="real tokens of all samples, padding left out")


@dataclass(slots=True, kw_only=True)
class Transform:
    """A compression."""

    peak_bytes: Number | None = Field(
        None, description="peak of memory above what was held before the model was loaded"
    )
    figures: dict[Text, Finite | None] | None = Field(None, description="what methods measured, by name")
    calibration: Calibration | None = Field(None, description="the data that it looked at, where it looked at any")


@dataclass(slots=True, kw_only=True)
class Size:
    """What a user would ship."""

    bytes: Number | None = Field(None, description="of all files")
    files: Any = Field(None, description="bytes of each file, by its name")


@dataclass(slots=True, kw_only=True)
class Parameters:
    """Elements of all weights."""

    total: Number | None = Field(None, description="at their unpacked shapes")
    nonzero: Number | None = Field(None, description="those that are not 0")


@dataclass(slots=True, kw_only=True)
class Machine:
    """What results depend on: those that differ in it are not compared without a warning."""

    device: Any = Field(None, description="cpu or cuda")
    device_name: Any = Field(None, description="the GPU's name, or the CPU's")
    gpus: Any = Field(None, description="how many there are")
    cpu: Any = Field(None, description="its name")
    cores: Any = Field(None, description="those that the process may use")
    threads: Any = Field(None, description="CPU threads of a stage")
    system: Any = Field(None, description="name and version of the operating system")
    python: Any = Field(None, description="its version")
    cuda: Any = Field(None, description="the version that torch is built for")
    driver: Any = Field(None, description="of the GPU")
    gpu_memory: Any = Field(None, description="bytes")
    power_limit: Any = Field(None, description="watts, as it is enforced")
    mig: Any = Field(None, description="the profile of a part of a GPU")
    versions: Versions | None = Field(None, description="of packages, by name")

    def settings(self) -> Iterator[tuple[str, object]]:
        """Each of these that is known, and each package with its version."""
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if each.name == "versions":
                yield from dict(value or {}).items()
            elif value not in (None, ""):
                yield each.name, value


@dataclass(slots=True, kw_only=True)
class Environment:
    """Where it ran."""

    machine: Machine | None = Field(None, description="the machine")
    git: Any = Field(None, description="commit of the suite's folder, and whether files differ from it")
    load: Any = Field(None, description="processes that wanted a CPU in the last 1, 5 and 15 minutes, on average")
    date: Any = Field(None, description="time of day, ISO 8601")
    variables: Any = Field(None, description="environment variables that can change numbers")


# -- lines -------------------------------------------------------------------------------------------------


class Line(Mapping[str, Any]):
    """A line: its parts are attributes, and the whole is the mapping that it is in the file, unknown fields too."""

    __slots__ = ("_whole",)
    _whole: Mapping[str, Any]

    @classmethod
    def of(cls, whole: Mapping[str, Any]) -> Self:
        """The line that `whole` is, which may be one already.

        Raises:
            ValidationError: something inside is damaged.
        """
        if isinstance(whole, cls):
            return whole
        found: Self = _adapter(cls).validate_python(whole)
        found._whole = whole
        return found

    def __getitem__(self, key: str) -> Any:
        return self._whole[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole)

    def __len__(self) -> int:
        return len(self._whole)


@functools.cache
def _adapter(kind: type[Line]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@dataclass(slots=True, kw_only=True, eq=False)
class Node(Line):
    """A stage ended, whatever its end. Of several lines with one id, the last counts."""

    id: Text = Field(description="names the stage and all that its result depends on")
    parent: Text | None = Field(None, description="id of the stage before it")
    single_process: Text | None = Field(
        None, description="id of the same stage in one process, where several divide this one"
    )
    run: Text = Field(description="id of the run in which it ended")
    status: Status = Field(description="its end")
    reason: Text | None = Field(None, description="why it is not ok")
    log: Text | None = Field(None, description="the end of what its processes printed, where it is not ok")
    recipe: Text = Field("", description="its stages, up to this one")
    stage: Text = Field("", description="this stage")
    arguments: Text | None = Field(None, description="this stage, with all arguments, those that were not given too")
    depth: Any = Field(None, description="how many stages are before it")
    base_kind: Any = Field(None, description="trainer or transform")
    model: Text = Field("", description="its name")
    task: Text = Field("", description="its name")
    model_fingerprint: Any = Field(None, description="of the model's files; of a model of the hub, its commit")
    task_fingerprint: Any = Field(None, description="of the task's data")
    head: Any = Field(None, description="whether the model's head is kept, new or pretrained")
    seed: Any = Field(None, description="of all random numbers")
    budget: Any = Field(None, description="the suite's table")
    measure: Any = Field(None, description="the suite's table")
    started: Any = Field(None, description="time of day, ISO 8601")
    environment: Environment | None = Field(None, description="where it ran")
    training: Training | None = Field(None, description="of a stage that trains")
    transform: Transform | None = Field(None, description="of a stage that compresses")
    evidence: list[Claim] | None = Field(None, description="what proves that its methods were applied")
    quality: Quality | None = Field(None, description="of the model that it left")
    lm_eval: LmEval | None = Field(None, description="of the same model, by the tasks that `measure.quality` names")
    retained: Retained | None = Field(None, description="what is left of the task that `measure.retain` names")
    weight_bytes: Number | None = Field(None, description="storage of parameters and buffers of the model that it left")
    parameters: Parameters | None = Field(None, description="of the model that it left")
    size: Size | None = Field(None, description="of the model that it left, on disk")
    inference: Inference | None = Field(None, description="what inference by the model that it left took")
    latency: list[Latency] | None = Field(None, description="timings of the model that it left")
    trust: Trust | None = Field(None, description="whether timings can be trusted")
    absent: dict[Text, Text] | None = Field(None, description="why a metric, by its name, could not be measured")
    gpus: list[dict[str, Any]] | None = Field(None, description="name and uuid of each GPU that it had")
    seconds: Any = Field(None, description="wall time of what the stage did, by name; total is all of it")
    retimed: Natural = Field(0, description="how often its latency was timed again, since the machine was busy")


@dataclass(slots=True, kw_only=True)
class Cell:
    """One recipe for one model, task and seed."""

    name: Text = Field(description="the recipe's name in the suite")
    recipe: Text = Field(description="its text")
    model: Text = Field(description="its name")
    task: Text = Field(description="its name")
    seed: Whole = Field(description="of all random numbers")
    path: list[Text] = Field(description="ids of its stages, first to last")
    refused: list[Text] | None = Field(None, description="why it cannot run")


@dataclass(slots=True, kw_only=True)
class Note:
    """What a reader should know of a model on a task."""

    model: Text = Field(description="its name")
    task: Text = Field(description="its name")
    text: Text = Field(description="a sentence")


@dataclass(slots=True, kw_only=True)
class Trial:
    """A recipe was trained with one learning rate, to choose one."""

    lr: Above0 = Field(description="the learning rate of all its trainers")
    node: Text = Field(description="id of its last stage, whose quality is of the validation split")


@dataclass(slots=True, kw_only=True)
class Tuned:
    """The learning rate of a recipe on a model and a task was chosen."""

    model: Text = Field(description="its name")
    task: Text = Field(description="its name")
    name: Text = Field(description="the recipe's name in the suite")
    metric: Text = Field(description="what decided, on the validation split")
    seed: Whole = Field(description="of all trials")
    trials: list[Trial] = Field(description="from the lowest rate up")
    lr: Above0 | None = Field(None, description="the rate that it runs with; null where no trial ended ok")


@dataclass(slots=True, kw_only=True)
class Settle:
    """How seeds are added to recipes that are not settled."""

    looks: list[Positive] = Field(
        min_length=1,
        description="after how many seeds of a recipe a verdict may be made; the 5 % are divided evenly among all of these",
    )


@dataclass(slots=True, kw_only=True, eq=False)
class Run(Line):
    """A run began: all that was asked for, recorded before or not."""

    run: Text = Field(description="its id")
    title: Text = Field(description="the suite's")
    baseline: Text = Field(description="the name of the recipe that all others are compared with")
    cells: list[Cell] = Field(description="all that the suite asks for")
    seeds: Any = Field(None, description="the suite's")
    recipes: Any = Field(None, description="text of each recipe, by its name")
    suite: Any = Field(None, description="the suite's table, with what the command line said instead")
    suite_folder: Any = Field(None, description="where its paths begin, seen from the results folder")
    notes: list[Note] = Field(default_factory=list, description="for readers")
    data: dict[str, dict[str, Natural] | None] | None = Field(
        None, description="what became of each task's texts, in numbers"
    )
    primary: dict[Text, Text] | None = Field(None, description="the metric that ranks recipes, of each task")
    margins: dict[Text, Amount] | None = Field(
        None,
        description="up to where recipes are the same: `quality` as a difference of fractions, or a share of the baseline's "
        "figure where it is no fraction; `cost` as a share; a metric in its unit",
    )
    references: list[Text] | None = Field(None, description="ids of what its qualities are to be seen beside")
    settle: Settle | None = Field(None, description="of a run with --settle, whose recipes may differ in their seeds")
    tuning: list[Tuned] | None = Field(
        None, description="how the learning rates were chosen, where the suite tunes them"
    )
    environment: Environment | None = Field(None, description="where it ran")
    started: Text | None = Field(None, description="time of day, ISO 8601")
    version: Text | None = Field(None, description="of methodbench")


@dataclass(slots=True, kw_only=True)
class Chance:
    """What a guess that reads no text reaches on the test split."""

    about: Text = Field(description="what is guessed")
    metrics: dict[Text, Finite | None] = Field(description="each metric by its name")


@dataclass(slots=True, kw_only=True, eq=False)
class Reference(Line):
    """What quality is to be seen beside was scored, with no recipe. Of several lines with one id, the last counts."""

    id: Text = Field(description="names the model, the task and all else that its result depends on")
    model: Text = Field(description="its name")
    task: Text = Field(description="its name")
    seed: Whole = Field(description="of the weights that are new")
    status: Status = Field(description="its end")
    reason: Text | None = Field(None, description="why it is not ok")
    log: Text | None = Field(None, description="the end of what its process printed, where it is not ok")
    untrained: Quality | None = Field(None, description="of the model as a first stage finds it")
    chance: Chance | None = Field(None, description="of a guess, where the kind of task says what one is")
    started: Any = Field(None, description="time of day, ISO 8601")
    seconds: Any = Field(None, description="wall time, by name; total is all of it")


@dataclass(slots=True, kw_only=True)
class Side:
    """One of two trainings that took turns."""

    seconds: list[Seconds] = Field(
        min_length=1, description="of one real token, in each turn; the n-th of both sides are neighbours"
    )
    cpu_seconds: Any = Field(None, description="the same, by the CPU time of the process")
    trust: Contention | None = Field(None, description="whether they can be trusted")


@dataclass(slots=True, kw_only=True, eq=False)
class Turns(Line):
    """Two trainings were timed in turns, at the end of a run. Of several lines with the same two stages, the last counts."""

    node: Text = Field(description="id of the stage that was timed")
    baseline: Text = Field(description="id of the stage that it took turns with, the first training of the baseline")
    run: Text = Field(description="id of the run in which it was timed")
    status: Status = Field(description="how it ended")
    reason: Text | None = Field(None, description="why it is not ok")
    log: Text | None = Field(None, description="the end of what its processes printed, where it is not ok")
    seed: Any = Field(None, description="of all random numbers")
    clock: Any = Field(None, description="wall, or cuda for events of the GPU")
    steps: Any = Field(None, description="of a training in a turn")
    alive: Any = Field(None, description="whether both were in memory at once; else one came after the other, A B B A")
    ours: Side | None = Field(None, description="the stage that was timed")
    theirs: Side | None = Field(None, description="the baseline's")
    environment: Environment | None = Field(None, description="where it ran")
    started: Any = Field(None, description="time of day, ISO 8601")
    seconds: Any = Field(None, description="wall time that this took, by name; total is all of it")

    def __post_init__(self) -> None:
        if self.ours and self.theirs and len(self.ours.seconds) != len(self.theirs.seconds):
            raise ValueError("ours and theirs had not as many turns")

    @property
    def ratio(self) -> float | None:
        """Our seconds for a token over theirs: the median over turns that were neighbours. None where it did not end ok."""
        if self.status != "ok" or self.ours is None or self.theirs is None:
            return None
        return math.exp(log_ratio(self.ours.seconds, self.theirs.seconds))

    @property
    def against(self) -> str | None:
        """Why they are not to be trusted; None where they are."""
        sides = (side.trust for side in (self.ours, self.theirs) if side and side.trust)
        return next((trust.against for trust in sides if trust.against), None)


@dataclass(slots=True, kw_only=True, eq=False)
class End(Line):
    """A run ended. One without it was broken off."""

    run: Text = Field(description="its id")
    seconds: Any = Field(None, description="wall time of the run")
    status: Any = Field(None, description="done")


AnyLine = Run | Node | Reference | Turns | End

KINDS: Mapping[str, type[AnyLine]] = {"run": Run, "node": Node, "reference": Reference, "turns": Turns, "end": End}
"""The lines by their ``kind``. Each has the number of its ``schema`` too."""


class Newer(Exception):
    """The record is of a schema that this methodbench does not know."""


def line(record: object) -> AnyLine:
    """What `record`, a line that was parsed, is.

    Raises:
        Newer: it is of a newer schema.
        ValueError: it is damaged; the message ends the sentence "this line is".
    """
    if not isinstance(record, dict) or type(record.get("schema")) is not int:
        raise ValueError("not a record")
    if record["schema"] > SCHEMA:
        raise Newer(f"this record is of schema {record['schema']}, and this methodbench reads up to {SCHEMA}")
    kind = record.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"of an unknown kind, {kind!r}")
    try:
        return KINDS[kind].of(record)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"damaged inside, at {place}: {first['msg'][0].lower()}{first['msg'][1:]}") from None
