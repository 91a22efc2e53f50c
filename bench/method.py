"""The three kinds of method, and the hooks by which they take part.

A method is a frozen dataclass: its fields are its hyperparameters, and so also its schema, its page in
``methodbench show`` and its identity in a record. A field's annotation may carry bounds
(``Annotated[int, Ge(1)]``); they are checked when the method is made.

Hooks have torch-free signatures, and heavy imports stay inside them, so that listing and planning never import torch.
The loop in :mod:`bench.loop` draws where each hook is called. Methods never touch evaluation, clocks or records.
"""

from __future__ import annotations

import abc
import dataclasses
import difflib
import functools
import json
import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from annotated_types import Ge, Le

from bench.structure import Structure

if TYPE_CHECKING:
    import torch

    from bench.evidence import Claim, Snapshot
    from bench.loop import ComputeGradients, ComputeLoss, Criterion, Training, Update
    from bench.machine import Machine
    from bench.models.base import Model
    from bench.recipe import Recipe, Stage
    from bench.tasks.base import Batch
    from bench.work import Work

Kind = Literal["trainer", "modifier", "transform"]

Fact = Literal[
    "adapter",  # the model carries a PEFT adapter
    "mergeable",  # and that adapter can be folded into the weights
    "quantized",  # some weights are stored in fewer bits
    "inference_only",  # gradients cannot flow through the model any more; only who takes this fact can come after
    "half",  # its weights are held in 16 bits, in which nothing trains; only who works on these can come after
    "exported",  # another runtime than torch runs the model
    "sparse",  # some weights are held at zero
    "factored",  # some linear layers are the product of two
    "reshaped",  # some layers are of other sizes than :attr:`Place.config` says
    "uneven",  # the attention heads together are not as wide as the hidden size
    "ensemble",  # several models answer together; nothing can come after
    "no_head",  # the weights belong to another objective than the task's
]
"""What a stage may leave true of the model, known at planning. ``gives`` and ``takes`` are sets of these."""

Split = Literal[
    "replicas",  # the batch; each process holds the whole model
    "shards",  # the batch; parameters, gradients and optimizer state are divided too
    "tensors",  # the blocks' layers, by outputs and inputs; each process sees the whole batch, or slice
    "layers",  # the blocks, one behind the other; each process sees the whole batch, or slice
]
"""What several processes divide among them when they work on one stage."""

Width = Annotated[int, Ge(1), Le(2**16)]
"""How wide what a method puts on is: a rank, a bottleneck, virtual tokens. Beyond is a slip of the keys."""

Samples = Annotated[int, Ge(1), Le(2**20)]
"""How many training items a method looks at. They come from an endless stream, which so many end in hours."""

Way = Split | Literal["devices"]  # the blocks of one process over several GPUs
"""How a stage may be spread over more than one device."""


class RecipeError(ValueError):
    """A recipe, a method or one of its arguments is wrong. The message says what, and how to mend it."""


class Unfit(Exception):
    """A stage is refused when it is about to run: for what no plan can know, such as sizes that only the model shows.

    The message says why, and the mend, as :meth:`Method.problems` do where planning can tell.
    """


@dataclasses.dataclass(frozen=True)
class Broken:
    """Versions of packages that together are known to break a method, why, and the mend.

    ``versions`` are requirements as pip spells them, such as ``"transformers>=5.24"``; all of them must hold. Where
    only some kinds of task are affected, ``tasks`` names them.

    Raises:
        InvalidRequirement: one of ``versions`` is not a requirement.
    """

    versions: tuple[str, ...]
    why: str
    mend: str
    tasks: frozenset[str] | None = None

    def __post_init__(self) -> None:
        from packaging.requirements import Requirement

        for version in self.versions:
            Requirement(version)

    def __str__(self) -> str:
        on = f" on {', '.join(sorted(self.tasks))}" if self.tasks else ""
        return f"it does not work{on} with {' and '.join(self.versions)}: {self.why}; {self.mend}"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a method would run: what came before it, beside what, on which machine, for which task and model."""

    before: tuple[Stage, ...]
    stage: Stage
    machine: Machine
    task: str  # kind of task: "classification", ...
    model: str  # transformers' ``model_type``: "bert", "llama", ...
    batch_size: int
    steps: int
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the model as it was before the recipe
    base: Path = Path()  # the suite's folder: what its paths are relative to
    splits: frozenset[str] = frozenset({"train", "validation", "test"})  # of the task's, those that have items
    items: int | None = None  # how many training has; None where planning cannot tell, or there are plenty
    given: Model | None = None  # the model before the recipe
    structure: Structure = dataclasses.field(default_factory=Structure)  # and what is known of it
    max_length: int = 0  # tokens of an item, at most

    @property
    def facts(self) -> frozenset[Fact]:
        """What is true of the model that arrives here."""
        return facts_after(self.before)

    def fold(self, method: object) -> str:
        """What to do about the adapter that arrives, in a refusal's words, to have `method` run."""
        if "mergeable" in self.facts:
            return f"fold it first, as in `… >> merge >> {method}`"
        return f"it cannot be folded into the weights, so put `{method}` before it"

    @property
    def blocks(self) -> int | None:
        """How many blocks the model that arrives here has; None where planning cannot tell."""
        count: int | None = self.config.get("num_hidden_layers")
        for stage in self.before:
            count = stage.base.leaves_blocks(count)
        return count

    @property
    def trained(self) -> bool:
        """Whether a trainer ran before."""
        return any(isinstance(stage.base, Trainer) for stage in self.before)


class Method(abc.ABC):
    """What every method has. Write a :class:`Trainer`, :class:`Modifier` or :class:`Transform`, not this."""

    name: ClassVar[str]
    kind: ClassVar[Kind]
    paper: ClassVar[str]  # where the method is described: a paper's or a documentation page's address
    example: ClassVar[str]  # a recipe that runs
    needs: ClassVar[tuple[str, ...]] = ()
    """Packages imported inside the hooks, by import name; of one that is always there, the part that is imported late.
    They are imported before memory is measured."""
    breaks_with: ClassVar[tuple[Broken, ...]] = ()  # versions that are known to break it; planning refuses them
    gives: ClassVar[frozenset[Fact]] = frozenset()
    takes: ClassVar[frozenset[Fact]] = frozenset()
    across: ClassVar[frozenset[Way]] = frozenset()  # the ways to spread a stage in which this is known to be right

    def __post_init__(self) -> None:
        for field in fields_of(type(self)):
            value = check(type(self), field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)

    # -- planning ------------------------------------------------------------------------------------------------

    def problems(self, place: Place) -> Iterable[str]:
        """Say, in a sentence each, why this method cannot run at `place`. Nothing has run yet."""
        return ()

    def reads(self, base: Path) -> Mapping[str, str]:
        """What else decides the result, each with its fingerprint: another model that is read, say. Paths are from `base`."""
        return {}

    def leaves_blocks(self, count: int | None) -> int | None:
        """How many blocks a model of `count` has after this; None where planning cannot tell."""
        return count

    @property
    def virtual_tokens(self) -> int:
        """How many tokens it puts before those of a text; they take positions as these do."""
        return 0

    # -- in a stage's own process --------------------------------------------------------------------------------

    def on_model(self, training: Training) -> None:
        """Change ``training.model`` before training. Every parameter arrives frozen: a trainer unfreezes its own."""

    def on_optimizer(self, training: Training) -> torch.optim.Optimizer | None:
        """Make the optimizer over ``training.parameters``; None leaves it to the others."""
        return None

    def on_criterion(self, training: Training, criterion: Criterion) -> Criterion:
        """Wrap the criterion: model outputs and a batch in, a mean loss out."""
        return criterion

    def on_loss(self, training: Training, compute: ComputeLoss) -> ComputeLoss:
        """Wrap the forward pass and criterion: a batch in, a mean loss out."""
        return compute

    def on_gradients(self, training: Training, compute: ComputeGradients) -> ComputeGradients:
        """Wrap the forward and backward pass: a batch and a scale in, scaled gradients added, the detached loss out."""
        return compute

    def on_update(self, training: Training, update: Update) -> Update:
        """Wrap the optimizer's step, gradients zeroed after it."""
        return update

    def on_start(self, training: Training) -> None:
        """Once, when the step is put together and before the first clock starts."""

    def on_batch(self, training: Training, batch: Batch) -> Batch:
        """Change a batch of training items before its step, outside the clock, as all of loading is."""
        return batch

    def on_step(self, training: Training) -> None:
        """After each update, inside the clock."""

    def between_steps(self, training: Training) -> None:
        """After each step, outside the clock."""

    def on_end(self, training: Training) -> None:
        """After the last step: take off what was only for training."""

    def gone(self, work: Training) -> Iterable[Claim]:
        """After ``on_end``: prove that what was only for training is off."""
        return ()

    def carries(self) -> tuple[Transform, ...]:
        """The transforms whose result the trainings of later stages keep."""
        return ()

    @abc.abstractmethod
    def evidence(self, before: Snapshot, work: Work) -> Iterable[Claim]:
        """Prove that the method was really applied, by looking at the result and not at what the hooks say."""

    def save(self, model: torch.nn.Module, folder: Path) -> bool:
        """Write what a user would ship into `folder`, where ``save_pretrained`` cannot. False: not needed."""
        return False

    # -- as an expression ----------------------------------------------------------------------------------------

    def __add__(self, other: Method) -> Recipe:
        from bench.recipe import join

        return join(self, other)

    def __rshift__(self, other: Method | Recipe) -> Recipe:
        from bench.recipe import then

        return then(self, other)

    def __str__(self) -> str:
        return self.spell(defaults=False)

    def spell(self, *, defaults: bool) -> str:
        """The method as recipe text; with `defaults`, every argument is written out, which is its identity."""
        arguments = [
            f"{name}={_literal(value, defaults=defaults)}"
            for name, value, default in self.arguments_given()
            if defaults or value != default
        ]
        return f"{self.name}({', '.join(arguments)})" if arguments else self.name

    def arguments_given(self) -> Iterable[tuple[str, Any, Any]]:
        """Name, value and default of each argument, as a recipe spells them; ``MISSING`` where there is no default."""
        return ((field.name, getattr(self, field.name), field.default) for field in fields_of(type(self)))

    @classmethod
    def build(cls, arguments: list[Any], keywords: Mapping[str, Any], defaults: Mapping[str, Any]) -> Self:
        """Make the method from a recipe's arguments; `defaults` fill what the recipe leaves out.

        Raises:
            RecipeError: an argument is unknown, missing, given twice, of the wrong type or out of range.
        """
        names = [field.name for field in fields_of(cls)]
        if len(arguments) > len(names):
            takes = f"at most {len(names)} ({', '.join(names)})" if names else "none"
            raise RecipeError(f"{cls.name}: {len(arguments)} arguments given, it takes {takes}")
        given = dict(zip(names, arguments, strict=False))
        for name, value in keywords.items():
            if name not in names:
                raise RecipeError(f"{cls.name}: unknown argument `{name}`{nearest(name, names)}")
            if name in given:
                raise RecipeError(f"{cls.name}: argument `{name}` is given twice")
            given[name] = value
        given = {**defaults, **given}
        for name in given.keys() - set(names):
            raise RecipeError(f"{cls.name}: unknown argument `{name}`{nearest(name, names)}")
        for field in fields_of(cls):
            if field.default is dataclasses.MISSING and field.name not in given:
                raise RecipeError(f"{cls.name}: argument `{field.name}` is missing, as in `{cls.example}`")
        return cls(**given)


class Trainer(Method):
    """Takes a model and updates weights on data. Modifiers join it with ``+``."""

    kind = "trainer"
    lr: float  # learning rate, a default of its own for each trainer
    share: float  # of the budget's steps
    whole: ClassVar[bool] = False  # it updates every weight of the model
    replaces: ClassVar[bool] = False  # what it trains is another model than the one that arrives
    anew: ClassVar[bool] = False  # it gives the weights that it trains other values before it begins

    @abc.abstractmethod
    def on_model(self, training: Training) -> None:
        """Unfreeze what is trained, or put on an adapter that is."""


class Modifier(Method):
    """Joins a trainer with ``+`` and changes how it trains."""

    kind = "modifier"
    order: ClassVar[int] = 0
    """Where several wrap one hook, the lower is the inner. So the order in which a recipe names them is free."""
    split: ClassVar[Split | None] = None
    """What it divides among processes."""
    for_several: ClassVar[bool] = False
    """Whether it has a meaning among several processes alone, though it does not itself divide."""

    @property
    def processes(self) -> int:
        """Into how many parts."""
        return 1

    @property
    def passes(self) -> int:
        """Into how many micro-batches, one after the other, it divides what a process has of a step's batch."""
        return 1

    @property
    def gpus(self) -> int:
        """On how many GPUs each process works, where there are GPUs."""
        return 1


class Transform(Method):
    """Maps a model to a model with no gradient loop. Its loop hooks are called while a later stage trains."""

    kind = "transform"
    on_halves: ClassVar[bool] = False
    """Whether it works on weights of 16 bits as on those of 32."""
    at_load: ClassVar[bool] = False
    """Whether who loads the model that arrives can ask transformers for the same, as for bitsandbytes' weights."""

    @abc.abstractmethod
    def apply(self, work: Work) -> None:
        """Replace or change ``work.model``."""

    def carries(self) -> tuple[Transform, ...]:
        """Itself."""
        return (self,)

    def keeps(self, before: Snapshot, work: Training) -> Iterable[Claim]:
        """What must still hold after a later stage trained: that a mask was kept, say."""
        return ()

    def on_serve(self, model: torch.nn.Module, folder: Path) -> None:
        """In the process that measures inference, before it: do to the loaded `model` what no checkpoint can hold.

        `folder` is for files, and is removed after the measurement.
        """

    def served(self, model: torch.nn.Module) -> Iterable[Claim]:
        """In that process, after the measurement: prove in which form the model ran."""
        return ()


def facts_after(stages: Sequence[Stage]) -> frozenset[Fact]:
    """What is true of the model at the end of `stages`."""
    facts: frozenset[Fact] = frozenset()
    for stage in stages:
        for method in stage.methods:
            facts = (facts - method.takes) | method.gives
    return facts


def standing(stages: Sequence[Stage]) -> Sequence[Stage]:
    """The stages whose work the model at the end of `stages` still carries: those since another model took its place."""
    replaced = [depth for depth, stage in enumerate(stages) if isinstance(stage.base, Trainer) and stage.base.replaces]
    return stages[replaced[-1] :] if replaced else stages


def ships_alone(stages: Sequence[Stage]) -> bool:
    """Whether what `stages` end with can be had without its base: an adapter on a model as it was published.

    Quantizing a model while it is loaded can be done again by whoever loads it. All else that came before the adapter
    made another base, which has to be shipped too.
    """
    if "adapter" not in facts_after(stages):
        return False
    adapted = max(depth for depth, stage in enumerate(stages) if "adapter" in stage.base.gives)
    return all(isinstance(stage.base, Transform) and stage.base.at_load for stage in stages[:adapted])


def uncompressed(stages: Sequence[Stage]) -> int | None:
    """How many of `stages` make the model that the others make smaller, or faster; None where none does that.

    They are those before the first transform, or before the first trainer that puts another model in its place.
    """
    for depth, stage in enumerate(stages):
        if isinstance(stage.base, Transform) or (isinstance(stage.base, Trainer) and stage.base.replaces):
            return depth
    return None


def nearest(found: str, known: Iterable[str]) -> str:
    """A hint to append to an error: the nearest right spelling, or all of a short list of known ones."""
    known = sorted(known)
    close = difflib.get_close_matches(found, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean `{close[0]}`?"
    if not known:
        return ""
    return f"; known: {', '.join(known)}"


@functools.cache
def fields_of(cls: type[Method]) -> tuple[dataclasses.Field[Any], ...]:
    """A method's hyperparameters, in order."""
    return dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()


@functools.cache
def _checker(cls: type[Method], name: str) -> Any:
    import pydantic

    hint = typing.get_type_hints(cls, include_extras=True)[name]
    return pydantic.TypeAdapter(hint, config=pydantic.ConfigDict(arbitrary_types_allowed=True, strict=True))


def schema(cls: type[Method]) -> list[dict[str, Any]]:
    """A method's fields, each with ``name``, ``type`` and ``default`` (absent where one must be given)."""
    hints = typing.get_type_hints(cls, include_extras=True)
    rows = []
    for field in fields_of(cls):
        row: dict[str, Any] = {"name": field.name, "type": _type_name(hints[field.name])}
        if field.default is not dataclasses.MISSING:
            row["default"] = str(field.default) if isinstance(field.default, Method) else field.default
        rows.append(row)
    return rows


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Annotated:
        base, *bounds = typing.get_args(hint)
        return " ".join([_type_name(base), *(_bound(bound) for bound in bounds)])
    if typing.get_origin(hint) is Literal:
        return " | ".join(repr(value) for value in typing.get_args(hint))
    if isinstance(hint, type) and not typing.get_args(hint):
        return "None" if hint is type(None) else hint.__name__.lower() if issubclass(hint, Method) else hint.__name__
    return str(hint).replace("typing.", "")


def _bound(bound: Any) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return ", ".join(f"{signs[key]} {getattr(bound, key)}" for key in signs if getattr(bound, key, None) is not None)


def check(cls: type[Method], name: str, value: Any) -> Any:
    """`value` as argument `name` of `cls`: lists become tuples, whole numbers floats where those are wanted.

    Raises:
        RecipeError: it is of the wrong type or out of range.
    """
    import pydantic

    if isinstance(value, list):
        value = tuple(value)
    try:
        checked = _checker(cls, name).validate_python(value)
    except pydantic.ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        raise RecipeError(f"{cls.name}: {name}: {wrong['msg'].lower()}, found {value!r}") from None
    if isinstance(checked, float) and not math.isfinite(checked):
        raise RecipeError(f"{cls.name}: {name}: must be finite, found {value!r}")
    return checked


def _literal(value: Any, *, defaults: bool) -> str:
    if isinstance(value, Method):
        return value.spell(defaults=defaults)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple | list):
        return f"[{', '.join(_literal(item, defaults=defaults) for item in value)}]"
    if isinstance(value, dict):
        items = (
            f"{_literal(k, defaults=defaults)}: {_literal(v, defaults=defaults)}" for k, v in sorted(value.items())
        )
        return f"{{{', '.join(items)}}}"
    return repr(value)
