"""Recipes: expressions of methods. ``a >> b`` is "then", ``a + b`` is "together with" and binds tighter, as in Python.

    full
    lora(r=8) + mixed_precision("bf16") + accumulate(4)
    full >> prune_ffn(0.5) >> full(share=0.3)

The text is read with :func:`ast.parse` over a closed grammar and evaluated by the operators of the method objects
themselves, so that text and Python cannot differ. Modifiers are written in alphabetical order, every argument by
name and defaults left out: ``str(recipe)`` is canonical.
"""

from __future__ import annotations

import ast
import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench.recipe import registry
from bench.recipe.declarations import Axis
from bench.recipe.errors import RecipeError, nearest
from bench.recipe.fields import fields_of
from bench.recipe.method import Method, Modifier, Trainer, Transform

MAX_LENGTH = 10_000
"""Characters in a recipe. Far beyond any real one, and little enough for the parser to refuse quickly."""


@dataclass(frozen=True)
class Stage:
    """One step of a recipe: a trainer with its modifiers, or a transform."""

    main: Trainer | Transform
    modifiers: tuple[Modifier, ...] = ()

    @property
    def methods(self) -> tuple[Method, ...]:
        """The base, then the modifiers in alphabetical order."""
        return (self.main, *self.modifiers)

    @property
    def layout(self) -> dict[Axis, int]:
        """What is divided among processes, and into how many parts; empty where one process does it all."""
        return {modifier.axis: modifier.processes for modifier in self.modifiers if modifier.axis}

    @property
    def processes(self) -> int:
        """How many processes work on it together."""
        return math.prod(self.layout.values())

    @property
    def gpus_each(self) -> int:
        """On how many GPUs each of them works, where there are GPUs."""
        return max((modifier.gpus for modifier in self.modifiers), default=1)

    @property
    def gpus(self) -> int:
        """How many GPUs it takes, where there are GPUs."""
        return self.processes * self.gpus_each

    @property
    def single_process(self) -> Stage:
        """The same in one process."""
        return Stage(self.main, tuple(each for each in self.modifiers if not each.axis and not each.for_several))

    def spell(self, *, defaults: bool) -> str:
        """The stage as recipe text; with `defaults`, every argument is written out."""
        return " + ".join(method.spell(defaults=defaults) for method in self.methods)

    def __str__(self) -> str:
        return self.spell(defaults=False)


@dataclass(frozen=True)
class Recipe:
    """Stages, one after the other."""

    stages: tuple[Stage, ...]

    @property
    def single_process(self) -> Recipe:
        """The same, each stage in one process."""
        return Recipe(tuple(stage.single_process for stage in self.stages))

    @property
    def trains(self) -> bool:
        """Whether a stage of it trains."""
        return any(isinstance(stage.main, Trainer) for stage in self.stages)

    def with_lr(self, lr: float) -> Recipe:
        """The same with `lr` as the learning rate of every trainer."""
        return Recipe(
            tuple(
                Stage(stage.main.with_lr(lr), stage.modifiers) if isinstance(stage.main, Trainer) else stage
                for stage in self.stages
            )
        )

    def given_lr(self) -> str:
        """The argument of a training stage that says a learning rate, as in ``lora has lr=0.001``; empty where none does."""
        given = [
            f"{method.name} has lr={value}"
            for stage in self.stages
            for method in stage.methods
            for name, value, default in method.arguments_given()
            if name == "lr" and value != default
        ]
        return next(iter(given), "")

    def __add__(self, other: Method) -> Recipe:
        return join(self, other)

    def __rshift__(self, other: Method | Recipe) -> Recipe:
        return then(self, other)

    def spell(self, *, defaults: bool) -> str:
        """The recipe as text; with `defaults`, every argument is written out, which is its identity."""
        return " >> ".join(stage.spell(defaults=defaults) for stage in self.stages)

    def __str__(self) -> str:
        return self.spell(defaults=False)


def of(expression: object) -> Recipe:
    """The recipe that a method alone, or a recipe, is.

    Raises:
        RecipeError: a modifier stands alone, or `expression` is neither.
    """
    if isinstance(expression, Recipe):
        return expression
    if isinstance(expression, Trainer | Transform):
        return Recipe((Stage(expression),))
    if isinstance(expression, Modifier):
        raise RecipeError(f"`{expression}` is a modifier and needs a trainer before it, as in `{expression.example}`")
    raise RecipeError(f"{expression!r} is not a method")


def then(first: object, second: object) -> Recipe:
    """``first >> second``."""
    return Recipe(of(first).stages + of(second).stages)


def join(first: object, second: object) -> Recipe:
    """``first + second``: a stage together with one more modifier."""
    left = of(first)
    if isinstance(second, Recipe):
        raise RecipeError(f"`+ ({second})`: only a modifier joins with `+`; use `>>` for what comes then")
    if not isinstance(second, Modifier):
        what = of(second).stages[0].main
        raise RecipeError(
            f"`{first} + {second}`: only a modifier joins with `+`, and {what.name} is a {what.kind}; "
            f"for one after the other write `{first} >> {second}`"
        )
    if len(left.stages) > 1:
        raise RecipeError(
            f"`({first}) + {second}`: `+` joins one trainer, not a chain; "
            f"write `{second.name}` right behind the trainer that it belongs to"
        )
    (stage,) = left.stages
    if not isinstance(stage.main, Trainer):
        raise RecipeError(
            f"`{first} + {second}`: {second.name} modifies training, and {stage.main.name} does not train"
        )
    if any(type(other) is type(second) for other in stage.modifiers):
        raise RecipeError(f"`{first} + {second}`: {second.name} is there twice")
    return Recipe((Stage(stage.main, tuple(sorted((*stage.modifiers, second), key=lambda m: m.name))),))


def parse(text: str, defaults: Mapping[str, Mapping[str, Any]] | None = None) -> Recipe:
    """Read a recipe. `defaults` maps a method's name to arguments that apply where the recipe leaves them out.

    Raises:
        RecipeError: the text is not in the grammar, or a method or an argument is unknown or wrong.
    """
    if len(text) > MAX_LENGTH:
        raise RecipeError(f"a recipe has at most {MAX_LENGTH} characters, this one {len(text)}")
    text = text.strip()
    try:
        tree = ast.parse(text, mode="eval")
        return of(_evaluate(tree.body, defaults or {}))
    except RecipeError as error:
        line, column = error.place or (1, 0)
        error.add_note(_pointed(text, line, len(_line(text, line).encode()[:column].decode())))  # ast counts bytes
        raise
    except SyntaxError as error:
        where = f" at character {error.offset}" if error.offset else ""
        wrong = RecipeError(f"`{_shorten(text)}` is not a recipe{where}: {error.msg}")
        wrong.add_note(_pointed(text, error.lineno or 1, error.offset - 1 if error.offset else len(text)))
        raise wrong from None
    except (ValueError, MemoryError, RecursionError):
        # The parser's own answers to null bytes and to thousands of nested parentheses or operators.
        raise RecipeError(f"`{_shorten(text)}` is not a recipe: it is nested too deeply or is not text") from None


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:60]} … {text[-30:]}"


def _pointed(text: str, line: int, column: int) -> str:
    """The line of a recipe with a caret under the column; of a long line what fits on a terminal."""
    begin = max(0, column - 50)
    shown = _line(text, line).replace("\t", " ")[begin : begin + 76]
    return f"  {'…' + shown[1:] if begin else shown}\n  {' ' * (column - begin)}^"


def _line(text: str, number: int) -> str:
    return next(iter(text.split("\n")[number - 1 : number]), "")


@contextlib.contextmanager
def _at(node: ast.expr, arguments: Mapping[str, ast.expr | ast.keyword] | None = None) -> Iterator[None]:
    """An error inside is at `node`, or at the argument that it names, where it says no place yet."""
    try:
        yield
    except RecipeError as error:
        if error.place is None:
            at = (arguments or {}).get(error.argument or "", node)
            error.place = at.lineno, at.col_offset
        raise


def _evaluate(node: ast.expr, defaults: Mapping[str, Mapping[str, Any]]) -> Method | Recipe:
    with _at(node):
        return _method_or_recipe(node, defaults)


def _method_or_recipe(node: ast.expr, defaults: Mapping[str, Mapping[str, Any]]) -> Method | Recipe:
    match node:
        case ast.BinOp(left=left, op=ast.RShift(), right=right):
            first, second = _evaluate(left, defaults), _evaluate(right, defaults)
            with _at(right):
                return then(first, second)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            first, second = _evaluate(left, defaults), _evaluate(right, defaults)
            with _at(right):
                return join(first, second)
        case ast.Name(id=name):
            return _method(name).build([], {}, defaults.get(name, {}))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            cls = _method(name)
            if any(keyword.arg is None for keyword in keywords):
                raise RecipeError(f"{name}: `**` is not in the grammar; write the arguments out")
            names = [str(keyword.arg) for keyword in keywords]
            given = {str(keyword.arg): _argument(keyword.value, defaults) for keyword in keywords}
            if len(given) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise RecipeError(f"{name}: argument `{twice}` is given twice")
            places = dict(zip([field.name for field in fields_of(cls)], args, strict=False))
            with _at(node, {**places, **{str(keyword.arg): keyword for keyword in keywords}}):
                return cls.build([_argument(arg, defaults) for arg in args], given, defaults.get(name, {}))
    raise RecipeError(
        f"`{_shorten(ast.unparse(node))}` is not in the grammar of recipes, which has method names, calls, "
        "literal arguments, `>>` and `+`"
    )


def _argument(node: ast.expr, defaults: Mapping[str, Mapping[str, Any]]) -> Any:
    match node:
        case ast.Constant(value=bool() | str() | int() | None as value):
            return value
        case ast.Constant(value=float() as value) if math.isfinite(value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return tuple(_argument(item, defaults) for item in items)
        case ast.Name() | ast.Call():
            return _evaluate(node, defaults)
    with _at(node):
        raise RecipeError(f"`{_shorten(ast.unparse(node))}` is not a literal or a method")


def _method(name: str) -> type[Method]:
    methods = registry.methods()
    if name not in methods:
        raise RecipeError(f"unknown method `{name}`{nearest(name, methods)}")
    return methods[name]
