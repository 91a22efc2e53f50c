"""The three kinds of method, and the hooks by which they take part.

A method is a frozen dataclass: its fields are its hyperparameters, and so also its schema, its page in
``methodbench show`` and its identity in a record. A field's annotation may carry bounds
(``Annotated[int, Ge(1)]``); they are checked when the method is made.

Hooks have torch-free signatures, and heavy imports stay inside them, so that listing and planning never import torch.
The loop in :mod:`bench.stage.loop` draws where each hook is called. Methods never touch evaluation, clocks or records.
"""

from __future__ import annotations

import abc
import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from bench.recipe.declarations import Axis, Broken, Fact, Spread, Trait
from bench.recipe.errors import RecipeError, nearest
from bench.recipe.fields import check, fields_of, literal

if TYPE_CHECKING:
    import torch

    from bench.plan.context import PlanContext
    from bench.recipe.claim import Claim
    from bench.recipe.recipe import Recipe
    from bench.stage.evidence import Snapshot
    from bench.stage.loop import ComputeGradients, ComputeLoss, Criterion, Training, Update
    from bench.stage.work import Work
    from bench.tasks.base import Batch

Kind = Literal["trainer", "modifier", "transform"]

TRAINING_HOOKS = (
    "on_model", "make_optimizer", "wrap_criterion", "wrap_loss", "wrap_gradients", "wrap_update", "on_start",
    "transform_batch", "on_step", "on_step_end", "on_end",
)  # fmt: skip
"""The hooks that take part in a training, in the order in which they are called first."""


class Method(abc.ABC):
    """What every method has. Write a :class:`Trainer`, :class:`Modifier` or :class:`Transform`, not this."""

    name: ClassVar[str]
    kind: ClassVar[Kind]
    paper: ClassVar[str]  # where the method is described: a paper's or a documentation page's address
    example: ClassVar[str]  # a recipe that runs
    needs: ClassVar[tuple[str, ...]] = ()
    """Packages imported inside the hooks, by import name; of one that is always there, the part that is imported late.
    They are imported before memory is measured."""
    figures: ClassVar[tuple[str, ...]] = ()
    """Names of what it adds to ``work.figures``, in ``apply`` or while training. A metric is registered for each, which may
    stand in the method's own file."""
    breaks_with: ClassVar[tuple[Broken, ...]] = ()  # versions that are known to break it; planning refuses them
    traits: ClassVar[frozenset[Trait]] = frozenset()
    begins_anew: ClassVar[str] = ""
    """Why a training with it cannot go on in another process, and begins anew there; empty where it can. What its hooks
    change while it trains is then in the weights that train, in buffers, in the optimizer or in ``training.state``, as data or as
    objects with ``state_dict`` and ``load_state_dict`` (:mod:`bench.stage.resume`)."""
    divisible_by: ClassVar[frozenset[Spread]] = frozenset()
    """The ways to spread a stage over devices in which this is known to be right."""

    def __post_init__(self) -> None:
        for field in fields_of(type(self)):
            value = check(type(self), field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)

    # -- what it declares: an attribute of the class, or a property where its arguments decide ------------------------

    @property
    def adds(self) -> frozenset[Fact]:
        """What is true of the model after it."""
        return frozenset()

    @property
    def removes(self) -> frozenset[Fact]:
        """What is no longer true of the model after it."""
        return frozenset()

    @property
    def tolerates(self) -> frozenset[Fact]:
        """Of what makes a model final for others, ``inference_only`` and ``half``, what it can work on."""
        return frozenset()

    @property
    def requires(self) -> tuple[tuple[Fact, str], ...]:
        """What must be true of the model that arrives, each with why, and the mend where it is not.

        In these sentences and the following, ``{method}`` is the method as recipe text, ``{name}`` its name,
        ``{model}`` the model's type and ``{fold}`` what to do about an adapter.
        """
        return ()

    @property
    def refuses(self) -> tuple[tuple[Fact, str], ...]:
        """What must not be true of the model that arrives, each with why and the mend."""
        return ()

    @property
    def refuses_beside(self) -> tuple[tuple[Trait, str], ...]:
        """Traits of methods that cannot be in a stage with it, each with why and the mend; ``{other}`` is such a method's name."""
        return ()

    # -- planning ------------------------------------------------------------------------------------------------

    def problems(self, context: PlanContext) -> Iterable[str]:
        """Say, in a sentence each, what beside its declarations keeps this method from running at `context`. Nothing has run yet."""
        return ()

    def reads(self, suite_folder: Path) -> Mapping[str, str]:
        """What else decides the result, each with its fingerprint: another model that is read, say. Paths are from `suite_folder`."""
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

    def make_optimizer(self, training: Training) -> torch.optim.Optimizer | None:
        """Make the optimizer over ``training.parameters``; None leaves it to the others."""
        return None

    def wrap_criterion(self, training: Training, criterion: Criterion) -> Criterion:
        """Wrap the criterion: model outputs and a batch in, a mean loss out."""
        return criterion

    def wrap_loss(self, training: Training, compute: ComputeLoss) -> ComputeLoss:
        """Wrap the forward pass and criterion: a batch in, a mean loss out."""
        return compute

    def wrap_gradients(self, training: Training, compute: ComputeGradients) -> ComputeGradients:
        """Wrap the forward and backward pass: a batch and a scale in, scaled gradients added, the detached loss out."""
        return compute

    def wrap_update(self, training: Training, update: Update) -> Update:
        """Wrap the optimizer's step, gradients zeroed after it."""
        return update

    def on_start(self, training: Training) -> None:
        """Once, when the step is put together and before the first clock starts."""

    def transform_batch(self, training: Training, batch: Batch) -> Batch:
        """Change a batch of training items before its step, outside the clock, as all of loading is."""
        return batch

    def on_step(self, training: Training) -> None:
        """After each update, inside the clock."""

    def on_step_end(self, training: Training) -> None:
        """After each step, outside the clock."""

    def on_end(self, training: Training) -> None:
        """After the last step: take off what was only for training."""

    def removal_evidence(self, work: Training) -> Iterable[Claim]:
        """After ``on_end``: prove that what was only for training is off."""
        return ()

    def maintained(self) -> tuple[Transform, ...]:
        """The transforms whose result the trainings of later stages keep."""
        return ()

    if TYPE_CHECKING:
        evidence: Callable[..., Iterable[Claim]]  # what it is given depends on the kind

    def save(self, model: torch.nn.Module, folder: Path) -> bool:
        """Write what a user would ship into `folder`, where ``save_pretrained`` cannot, and say True. False: not needed.

        Where something else was said than was done, the stage ends ``invalid``.
        """
        return False

    @classmethod
    def overrides(cls, *hooks: str) -> bool:
        """Whether it does something in one of `hooks`; :data:`TRAINING_HOOKS` are those of a training."""
        return any(getattr(cls, hook) is not getattr(Method, hook) for hook in hooks)

    # -- as an expression ----------------------------------------------------------------------------------------

    def __add__(self, other: Method) -> Recipe:
        from bench.recipe.recipe import join

        return join(self, other)

    def __rshift__(self, other: Method | Recipe) -> Recipe:
        from bench.recipe.recipe import then

        return then(self, other)

    def __str__(self) -> str:
        return self.spell(defaults=False)

    def spell(self, *, defaults: bool) -> str:
        """The method as recipe text; with `defaults`, every argument is written out, which is its identity."""
        arguments = [
            f"{name}={literal(value, defaults=defaults)}"
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
        unnamed = [field.name for field in fields_of(cls) if not field.kw_only]
        if len(arguments) > len(unnamed):
            takes = f"at most {len(unnamed)} ({', '.join(unnamed)})" if unnamed else "none"
            named = " without their names" if len(unnamed) < len(names) else ""
            raise RecipeError(f"{cls.name}: {len(arguments)} arguments given{named}, it takes {takes}")
        given = dict(zip(unnamed, arguments, strict=False))
        for name, value in keywords.items():
            if name not in names:
                raise RecipeError(f"{cls.name}: unknown argument `{name}`{nearest(name, names)}", argument=name)
            if name in given:
                raise RecipeError(f"{cls.name}: argument `{name}` is given twice", argument=name)
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
    updates_all_weights: ClassVar[bool] = False  # it updates every weight of the model
    replaces_model: ClassVar[bool] = False  # what it trains is another model than the one that arrives

    def with_lr(self, lr: float) -> Self:
        """The same with another learning rate."""
        changed = copy.copy(self)  # a trainer's own `__init__` may take other arguments than its fields
        object.__setattr__(changed, "lr", lr)
        changed.__post_init__()
        return changed

    @property
    def reinitializes(self) -> bool:
        """Whether it gives the weights that it trains other values before it begins."""
        return False

    @abc.abstractmethod
    def on_model(self, training: Training) -> None:
        """Unfreeze what is trained, or put on an adapter that is."""

    @abc.abstractmethod
    def evidence(self, before: Snapshot, work: Training) -> Iterable[Claim]:
        """Prove that the method was really applied, by looking at the result and not at what the hooks say.

        Of this and of every other hook that proves: one that a method has and that claims nothing has proven nothing, and
        the stage ends ``invalid``.
        """


class Modifier(Method):
    """Joins a trainer with ``+`` and changes how it trains."""

    kind = "modifier"
    order: ClassVar[int] = 0
    """Where several wrap one hook, the lower is the inner. So the order in which a recipe names them is free."""
    axis: ClassVar[Axis | None] = None
    """What it divides among processes."""
    for_several: ClassVar[bool] = False
    """Whether it has a meaning among several processes alone, though it does not itself divide."""

    @abc.abstractmethod
    def evidence(self, before: Snapshot, work: Training) -> Iterable[Claim]:
        """Prove that the method was really applied, by looking at the result and not at what the hooks say."""

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
    at_load: ClassVar[bool] = False
    """Whether who loads the model that arrives can ask transformers for the same, as for bitsandbytes' weights."""
    format: ClassVar[str] = ""
    """What ``methodbench export`` calls the runtime's files that it makes; empty where torch runs what it makes."""

    @abc.abstractmethod
    def apply(self, work: Work) -> None:
        """Replace or change ``work.model``."""

    @abc.abstractmethod
    def evidence(self, before: Snapshot, work: Work) -> Iterable[Claim]:
        """Prove that the method was really applied, by looking at the result and not at what the hooks say."""

    def maintained(self) -> tuple[Transform, ...]:
        """Itself."""
        return (self,)

    def retention_evidence(self, before: Snapshot, work: Training) -> Iterable[Claim]:
        """What must still hold after a later stage trained: that a mask was kept, say."""
        return ()

    def on_serve(self, model: torch.nn.Module, folder: Path) -> None:
        """In the process that measures inference, before it: do to the loaded `model` what no checkpoint can hold.

        `folder` is for files, and is removed after the measurement.
        """

    def serving_evidence(self, model: torch.nn.Module) -> Iterable[Claim]:
        """In that process, after the measurement: prove in which form the model ran."""
        return ()
