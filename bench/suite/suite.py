"""The suite file: what to compare, on which model and data, how long, how often, measuring what.

TOML, checked by pydantic. :func:`json_schema` gives editors the same rules.
"""

from __future__ import annotations

import fnmatch
import math
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, ValidationError, field_validator, model_validator

from bench.machine.paths import irregular
from bench.metrics.units import counted
from bench.recipe import recipe, registry
from bench.recipe.errors import RecipeError, nearest, told_as
from bench.recipe.fields import check, fields_of
from bench.recipe.recipe import Recipe
from bench.suite.gate import GateTable
from bench.suite.margins import CompareTable
from bench.suite.tune import MOST_STEPS, TuneTable
from bench.tasks import lm_eval
from bench.tasks.registry import OwnTable
from bench.tasks.table import DataTable, Name, Strict, readable

NEW_TOKENS = 16
"""Tokens that a decoder adds to the prompt in one pass of decoding, where latency is measured."""


class SuiteError(ValueError):
    """A suite is wrong. The message names the file, the key, what was found and how to mend it."""


MOST_ITEMS = 2**20
MOST_TOKENS = 2**24
"""Bounds of a batch, and of an item or an input: no training of a language model that is known came near
them. More is a slip of the keys, which would show when memory or patience ends."""

SEEDS = 2**29
"""How many seeds there are. A stage draws by a thousand times the seed, of which torch's generator on CPUs takes 32 bits:
from here on, the draws of other seeds come again."""


class Budget(Strict):
    """How long every trainer trains; the same for all, so that recipes compare."""

    steps: int = Field(
        60, ge=1, le=MOST_STEPS, description="optimizer steps of each trainer; `share` takes a part of them"
    )
    epochs: float | None = Field(
        None,
        gt=0,
        le=10**4,
        description="passes over the training items, instead of `steps`; the last step may begin another pass",
    )
    batch_size: int = Field(
        16, ge=1, le=MOST_ITEMS, description="items an optimizer step, over all micro-batches and processes"
    )
    max_length: int = Field(64, ge=2, le=MOST_TOKENS, description="tokens an item; longer ones are cut")
    warmup_steps: int = Field(
        3, ge=0, le=MOST_STEPS, description="first steps that throughput leaves out; they still train"
    )
    eval_batch_size: int = Field(32, ge=1, le=MOST_ITEMS, description="items a batch in evaluation")
    eval_steps: int | None = Field(
        None,
        ge=1,
        le=MOST_STEPS,
        description="steps between two scores of the model in training on the validation split; none otherwise",
    )
    load_best_model_at_end: bool = Field(
        False, description="whether a training ends with the weights whose validation score was best, of `eval_steps`"
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.epochs is not None and "steps" in self.model_fields_set:
            raise ValueError("epochs: it stands instead of `steps`; give one of the two")
        if self.load_best_model_at_end and self.eval_steps is None:
            raise ValueError(
                "load_best_model_at_end: nothing is scored while it trains; give `eval_steps`, such as eval_steps = 50"
            )
        return self

    def length(self) -> str:
        """How long a training is, such as "60 steps"."""
        return counted(self.steps, "step") if self.epochs is None else f"{self.epochs:g} epochs"

    def optimizer_steps(self, items: int) -> int:
        """The steps of a trainer with a share of 1, where training has so many `items`."""
        return self.steps if self.epochs is None else math.ceil(self.epochs * items / self.batch_size)


class Measure(Strict):
    """Which figures are taken; each can be turned off, and latency up."""

    quality: bool | str = Field(
        True,
        description='the task\'s metrics on the test split; "lm-eval:hellaswag,gsm8k" also scores by these tasks of lm-eval',
    )
    split: Literal["test", "validation"] = Field(
        "test", description="the split that quality is of; with validation, the test split stays unseen"
    )
    retain: Name | OwnTable | None = Field(
        None, description="a task that the model has learned before; how much of it each recipe forgets"
    )
    references: bool = Field(
        True, description="the quality of the untrained model and of a guess, on the same test items"
    )
    memory: bool = Field(True, description="peak bytes in training and inference, and tensor bytes by category")
    flops: bool = Field(True, description="floating point operations of a training step")
    size: bool = Field(True, description="bytes on disk of what a user would ship")
    latency: list[tuple[int, int]] = Field(
        [(1, 16), (8, 64)], description="[batch size, tokens] pairs to time inference at; [] turns it off"
    )
    latency_processes: int = Field(1, ge=1, le=20, description="processes that each take a set of samples")
    latency_samples: int = Field(15, ge=3, le=100_000, description="samples in a set, beside the warm-ups")
    turns: int = Field(
        3,
        ge=0,
        le=1000,
        description="rounds, at the end of a run, in which each recipe's training takes turns with the baseline's (A B B A); "
        "they make the ratios of training throughput. What was timed on a busy machine is then timed again, at most twice. "
        "0 turns both off",
    )

    keep: Literal["best", "all"] | list[Name] | None = Field(
        None,
        description='recipes whose models stay in the results folder, of every seed, for `methodbench export`: "all", their '
        'names, or "best", the one with the best quality, for which all stay until the run is over',
    )

    @field_validator("keep", mode="before")
    @classmethod
    def _recipes(cls, value: object) -> object:
        named = isinstance(value, list) and all(isinstance(name, str) and name for name in value)
        if not (named or value in (None, "best", "all")):
            raise ValueError(f'it is "best", "all" or a list of recipes\' names, found {value!r}')
        return value

    @field_validator("quality", mode="before")
    @classmethod
    def _names(cls, value: bool | str) -> bool | str:
        lm_eval.names_in(value)
        return value

    @field_validator("latency", mode="before")
    @classmethod
    def _shapes(cls, value: object) -> object:
        if isinstance(value, list):
            for shape in value:
                if not (
                    isinstance(shape, list | tuple)
                    and len(shape) == 2
                    and all(type(n) is int and n >= 1 for n in shape)
                    and math.prod(shape) <= MOST_TOKENS
                ):
                    raise ValueError(
                        "each is [batch size, tokens], two whole numbers of at least 1, at most "
                        f"{MOST_TOKENS} tokens together, found {shape!r}"
                    )
            return [tuple(shape) for shape in value]
        return value


class Suite(Strict):
    """A comparison, as a suite file says it."""

    title: Name = Field("methodbench", description="the report's heading")
    model: Name | list[Name] = Field(
        description="a registered model, a transformers directory, or org/name or org/name@revision on the hub; a list makes a matrix"
    )
    allow_remote_code: bool = Field(
        False, description="whether code that comes with a model's files may run, in planning and in each stage"
    )
    task: Name | OwnTable | list[Name | OwnTable] = Field(
        description="a registered task or a table; a list makes a matrix"
    )
    baseline: Name | None = Field(None, description="the recipe that all are compared with; the first otherwise")
    seeds: list[Annotated[int, Field(ge=0, lt=SEEDS)]] = Field(
        [0], min_length=1, description="every recipe runs once with each"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where stages run")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads a stage; all available cores otherwise")
    budget: Budget = Budget()
    measure: Measure = Measure()
    tune: TuneTable | None = Field(None, description="learning rates that every recipe tries first")
    defaults: dict[str, dict[str, Any]] = Field(
        {}, description="method arguments that apply where a recipe leaves them out"
    )
    compare: CompareTable = Field(CompareTable(), description="which differences do not matter")
    gate: GateTable | None = Field(None, description="what `methodbench gate` allows a change to cost")
    recipes: dict[Name, Annotated[str, AfterValidator(readable)]] = Field(description="name and recipe of each row")

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("each seed is named once")
        return seeds

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.recipes:
            raise ValueError('recipes: at least one is needed, as in `full = "full"`')
        if not self.models or not self.tasks:
            raise ValueError(f"{'model' if not self.models else 'task'}: at least one is needed")
        if self.baseline is not None and self.baseline not in self.recipes:
            raise ValueError(f"baseline: no recipe is called `{self.baseline}`{nearest(self.baseline, self.recipes)}")
        if self.tune is not None and self.measure.quality is False:
            raise ValueError(
                "tune: quality decides between learning rates, and [measure] has quality = false; drop one"
            )
        keep = self.measure.keep
        for name in keep if isinstance(keep, list) else ():
            if name not in self.recipes:
                raise ValueError(f"measure.keep: no recipe is called `{name}`{nearest(name, self.recipes)}")
        if keep == "best" and not self.measure.quality:
            raise ValueError('measure.keep: "best" is by quality, and `quality = false` leaves that out; name recipes')
        return self

    @property
    def models(self) -> list[str]:
        """The models, one or more."""
        return [self.model] if isinstance(self.model, str) else self.model

    @property
    def tasks(self) -> list[str | DataTable]:
        """The tasks, one or more."""
        return self.task if isinstance(self.task, list) else [self.task]

    @property
    def baseline_name(self) -> str:
        """The recipe that all are compared with: the first where the suite does not say."""
        return self.baseline or next(iter(self.recipes))

    def parsed(self) -> dict[str, Recipe]:
        """The recipes by name, with the suite's defaults in them.

        Raises:
            SuiteError: a recipe or a default is wrong.
        """
        _check_defaults(self.defaults)
        found: dict[str, Recipe] = {}
        for name, text in self.recipes.items():
            try:
                found[name] = recipe.parse(text, self.defaults)
            except RecipeError as error:
                raise told_as(SuiteError, f"recipes.{name}: ", error) from None
            if self.tune is not None and (given := found[name].given_lr()):
                raise SuiteError(
                    f"recipes.{name}: {given}, and [tune] chooses the learning rate of every recipe; leave `lr` out, here and "
                    "in [defaults], or leave [tune] out"
                )
        return found

    def only(self, patterns: list[str]) -> set[str]:
        """Names of the recipes that match one of the shell patterns; all where there is none.

        Raises:
            SuiteError: a pattern matches nothing.
        """
        if not patterns:
            return set(self.recipes)
        for pattern in patterns:
            if not fnmatch.filter(self.recipes, pattern):
                raise SuiteError(f"--only '{pattern}' matches no recipe; there are: {', '.join(self.recipes)}")
        return {name for name in self.recipes if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}


def load(path: str | os.PathLike[str]) -> Suite:
    """Read and check a suite file.

    Raises:
        SuiteError: it cannot be read, is not TOML, or says something wrong.
    """
    return of(read_table(Path(path)), where=f"{path}: ")


def load_gate(path: Path) -> GateTable | None:
    """Read and check a suite file's ``[gate]`` alone; None where there is none. The recipes may be of a package that is not here.

    Raises:
        SuiteError: it cannot be read, is not TOML, or says something wrong in that table.
    """
    table = read_table(path)
    if "gate" not in table:
        return None
    try:
        return GateTable.model_validate(table["gate"])
    except ValidationError as error:
        raise SuiteError("\n".join(f"{path}: gate.{line}" for line in _explain(error))) from None


def read_table(file: Path) -> dict[str, Any]:
    """The TOML table in `file`, unchecked.

    Raises:
        SuiteError: it cannot be read or is not TOML.
    """
    # A shell hands a pipe on as /dev/fd/63; another pipe may have no one who writes into it.
    if not str(file).startswith("/dev/") and (what := irregular(file)):
        raise SuiteError(f"{file}: cannot be read: it is {what}")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        known = [str(other) for other in file.parent.glob("*.toml")] if file.parent.is_dir() else []
        if file.parent == Path():
            known += shipped()
        raise SuiteError(f"{file}: no such file{nearest(str(file), known)}") from None
    except (OSError, ValueError) as error:  # such as bytes that are no text, or a path with a NUL
        raise SuiteError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # tomllib's own, and Python's of a number with thousands of digits
        twice = "; a key or a recipe's name may stand only once" if "overwrite" in str(error) else ""
        raise SuiteError(f"{file}: not TOML: {error}{twice}") from None
    for key, value in _leaves(table, ()):
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise SuiteError(f"{file}: {key}: a whole number of {value.bit_length()} bits; TOML's have 64")
    return table


def _leaves(value: object, path: tuple[str, ...]) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inner, (*path, str(key)))
    else:
        yield ".".join(path), value


def of(table: dict[str, Any], where: str = "") -> Suite:
    """Check a suite given as a table; `where` begins each error.

    Raises:
        SuiteError: it says something wrong.
    """
    try:
        suite = Suite.model_validate(table)
    except ValidationError as error:
        raise SuiteError("\n".join(f"{where}{line}" for line in _explain(error))) from None
    try:
        suite.parsed()
    except SuiteError as error:
        raise told_as(SuiteError, where, error) from None
    return suite


def shipped() -> dict[str, Path]:
    """The suites that come along, by name: inside an installed package, or beside it in a checkout."""
    here = Path(__file__).parents[1]
    folder = here / "_suites" if (here / "_suites").is_dir() else here.parent / "suites"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a suite file, for editors."""
    return Suite.model_json_schema()


def _check_defaults(defaults: dict[str, dict[str, Any]]) -> None:
    for name, arguments in defaults.items():
        known = registry.methods()
        if name not in known:
            raise SuiteError(f"defaults.{name}: unknown method `{name}`{nearest(name, known)}")
        fields = [field.name for field in fields_of(known[name])]
        for argument, value in arguments.items():
            if argument not in fields:
                raise SuiteError(f"defaults.{name}.{argument}: {name} has no such argument{nearest(argument, fields)}")
            try:
                check(known[name], argument, value)
            except RecipeError as error:
                raise SuiteError(f"defaults.{error}") from None


def _explain(error: ValidationError) -> list[str]:
    lines = []
    errors = [(_path(wrong["loc"]), wrong) for wrong in error.errors(include_url=False)]
    for path, wrong in errors:
        # Of a union, pydantic names the error of each branch: where one got inside the value, the others say nothing.
        if wrong["type"].endswith("_type") and any(
            len(other) > len(path) and other[: len(path)] == path for other, _ in errors
        ):
            continue
        key = ".".join(str(part) for part in path)
        found = wrong["input"]
        if wrong["type"] == "extra_forbidden":
            table = _table_at(path[:-1])
            lines.append(f"{key}: unknown key{nearest(str(path[-1]), table.model_fields)}")
        elif wrong["type"] == "missing":
            lines.append(f"{key}: this key is missing")
        elif wrong["type"] == "value_error":
            message = wrong["msg"].removeprefix("Value error, ")
            lines.append(f"{key}: {message}" if key else message)
        else:
            lines.append(f"{key}: {wrong['msg'][0].lower()}{wrong['msg'][1:]}, found {found!r}")
    return list(dict.fromkeys(lines))


def _path(location: tuple[int | str, ...]) -> list[int | str]:
    """The keys to a value: pydantic puts the branch of a union among them, and a user's key never looks like one."""
    branches = ("list[", "constrained-", "str", "function-")
    return [part for part in location if not (isinstance(part, str) and part.startswith(branches))]


def _table_at(path: list[Any]) -> type[BaseModel]:
    tables: dict[Any, type[BaseModel]] = {"budget": Budget, "measure": Measure, "gate": GateTable, "tune": TuneTable}
    return next((tables[part] for part in reversed(path) if part in tables), Suite)
