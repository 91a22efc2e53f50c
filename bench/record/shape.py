"""What the inside of a record must be for figures to be read from it.

A file may hold lines of the right kind that a disk, another program or a hand has damaged inside. Keys that are not named
here may hold anything: nothing reads them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

_LARGEST = 1e100
"""Beyond all that is measured, and small enough for squares."""

_open = with_config(ConfigDict(extra="allow", strict=True))


def _loss(value: float) -> float:
    """A loss that is not finite was written as null, and is read as NaN."""
    if abs(value) > _LARGEST:
        raise ValueError(f"it is above {_LARGEST:g}")
    return value


Number = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, le=_LARGEST, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=1e-15, le=1e15, allow_inf_nan=False)]
Loss = Annotated[float, AfterValidator(_loss)]
Natural = Annotated[int, Field(ge=0, le=2**63)]
Positive = Annotated[int, Field(ge=1, le=2**63)]


@_open
class _Held(TypedDict, total=False):
    peak_bytes: Number | None
    gradient_bytes: Number | None
    optimizer_bytes: Number | None
    activation_bytes: Number | None
    communicated_bytes: Number | None
    weight_bytes: Number | None
    step_flops: Number | None
    trainable: Number | None


def _as_many(training: _Training) -> _Training:
    lengths = {len(training[what]) for what in ("step_seconds", "tokens", "samples") if what in training}
    if len(lengths) > 1:
        raise ValueError("step_seconds, tokens and samples are of different lengths")
    return training


@_open
class _Steps(TypedDict):
    step_seconds: list[Amount]
    tokens: list[Amount]
    samples: list[Amount]
    warmup: Natural


@_open
class _Training(_Steps, _Held, total=False):
    losses: list[Loss | None] | None
    figures: dict[str, Finite | None] | None
    ranks: list[_Held] | None


@_open
class _Values(TypedDict):
    values: Annotated[list[Seconds], Field(min_length=1)]


def _in_turns(entry: _Latency) -> _Latency:
    if "uncompressed" in entry and len(entry["uncompressed"]["values"]) != len(entry["values"]):
        raise ValueError("uncompressed.values are not as many as values")
    return entry


@_open
class _Shape(_Values):
    batch: Positive
    length: Positive
    clock: Literal["wall", "cpu"]


@_open
class _Latency(_Shape, total=False):
    phase: Literal["forward", "prefill", "decode"]
    uncompressed: _Values


@_open
class _Quality(TypedDict, total=False):
    metrics: dict[str, Finite | None] | None
    correct: list[Number] | None


@_open
class _Loss(TypedDict, total=False):
    nats: Number | None
    tokens: Annotated[float, Field(gt=0, le=_LARGEST, allow_inf_nan=False)] | None


@_open
class _Extra(TypedDict, total=False):
    extra: _Loss | None


@_open
class _Retained(TypedDict, total=False):
    before: _Extra | None
    after: _Extra | None


@_open
class _Claim(TypedDict):
    method: str
    text: str
    holds: bool
    seen: str


@_open
class _Counted(TypedDict, total=False):
    peak_bytes: Number | None
    load_peak_bytes: Number | None
    compile_seconds: Number | None
    bytes: Number | None
    total: Number | None
    nonzero: Number | None


@_open
class _Trust(TypedDict, total=False):
    contended: bool
    reason: str | None


@_open
class _Machine(TypedDict, total=False):
    versions: dict[str, str] | list[Annotated[list[str], Field(min_length=2, max_length=2)]]


@_open
class _Environment(TypedDict, total=False):
    machine: _Machine | None
    versions: dict[str, str] | list[Annotated[list[str], Field(min_length=2, max_length=2)]]


@_open
class _Node(TypedDict, total=False):
    id: str
    single_process: str | None
    recipe: str
    stage: str
    model: str
    task: str
    reason: str | None
    log: str | None
    training: Annotated[_Training, AfterValidator(_as_many)] | None
    latency: list[Annotated[_Latency, AfterValidator(_in_turns)]] | None
    quality: _Quality | None
    retained: _Retained | None
    evidence: list[_Claim] | None
    inference: _Counted | None
    transform: _Counted | None
    size: _Counted | None
    parameters: _Counted | None
    weight_bytes: Number | None
    trust: dict[str, _Trust | None] | None
    absent: dict[str, str] | None
    gpus: list[dict[str, Any]] | None
    environment: _Environment | None


@_open
class _Cell(TypedDict):
    name: str
    recipe: str
    model: str
    task: str
    seed: int
    path: list[str]


@_open
class _FullCell(_Cell, total=False):
    refused: list[str] | None


@_open
class _Note(TypedDict):
    model: str
    task: str
    text: str


@_open
class _Asked(TypedDict):
    title: str
    baseline: str
    cells: list[_FullCell]


@_open
class _Run(_Asked, total=False):
    notes: list[_Note]
    data: dict[str, dict[str, Natural] | None] | None
    environment: _Environment | None
    started: str | None
    version: str | None


_SHAPES: dict[str, TypeAdapter[Any]] = {"node": TypeAdapter(_Node), "run": TypeAdapter(_Run)}


def damage(record: dict[str, Any]) -> str | None:
    """What is wrong inside `record`, which is of one of the kinds of line; None where nothing is."""
    try:
        if record["kind"] in _SHAPES:
            _SHAPES[record["kind"]].validate_python(record)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        return f"damaged inside, at {place}: {first['msg'][0].lower()}{first['msg'][1:]}"
    return None
