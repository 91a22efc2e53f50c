"""Any method of PEFT by its own name."""

from __future__ import annotations

import dataclasses
import typing
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self

from annotated_types import Gt, Le

from bench.plan.context import PlanContext
from bench.recipe.declarations import Fact
from bench.recipe.errors import RecipeError, nearest
from bench.recipe.method import Trainer
from bench.stage.evidence import Claim
from methods import _added, _peft

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training

OWN = {"ADALORA": "adalora", "IA3": "ia3", "LORA": "lora", "PREFIX_TUNING": "prefix", "PROMPT_TUNING": "prompt"}

UNFIT = {
    "ADAPTION_PROMPT": "it replaces attention by its own, and a classifier's head stays as it came",
    "CARTRIDGE": "it learns from a text that a recipe cannot give; there is prefix",
    "CPT": "it wants the tokens of a context that a recipe cannot give; there is prompt",
    "GLORA": "on BERT a pickled copy of it gave other outputs",
    "MULTITASK_PROMPT_TUNING": "it wants to be told each item's task; there is prompt",
    "OSF": "it hangs functions on the model that cannot be saved with it",
    "POLY": "it wants to be told each item's task",
    "P_TUNING": "of the methods with virtual tokens there are prompt and prefix",
    "XLORA": "it mixes adapters that were trained before",
}
"""What does not run in a plain training loop, and why."""

MERGEABLE = frozenset(
    [
        "ADAMSS",
        "BOFT",
        "C3A",
        "DEFT",
        "DELORA",
        "FOURIERFT",
        "FROD",
        "GRALORA",
        "HIRA",
        "HRA",
        "LN_TUNING",
        "LOHA",
        "LOKR",
        "MISS",
        "OFT",
        "PEANUT",
        "PSOFT",
        "PVERA",
        "RANDLORA",
        "ROAD",
        "SHIRA",
        "SUPERTUNING",
        "TINYLORA",
        "UNILORA",
        "VBLORA",
        "VERA",
        "WAVEFT",
    ]
)
"""Those that gave the same outputs when they had been folded into the weights."""

QUANTIZED = frozenset({"HIRA", "LN_TUNING", "OFT", "ROAD", "SHIRA", "VERA"})
"""Those that trained beside 4-bit weights, on BERT and on Llama."""

_OURS = frozenset(
    ["auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type"]
)


@dataclass(frozen=True, init=False)
class Peft(Trainer):
    """Train any other method of PEFT, called by PEFT's name and given its arguments by theirs: ``peft("VERA", r=8)``.

    Names and arguments are those of PEFT's configuration classes
    (https://huggingface.co/docs/peft/package_reference/peft_types) and are checked when the recipe is read, which imports
    PEFT. What does not suit the model's shapes, such as a block size that divides nothing, PEFT says when it starts.
    ``lr`` and ``share`` are the recipe's own. Methods differ in the rate they want: the default is that of ``lora``.

    Tried on small BERTs and Llamas with PEFT 0.21, trained, saved and loaded again: ADAMSS, BEFT, BOFT, C3A, DEFT,
    DELORA, FOURIERFT, FROD, GRALORA, HIRA, HRA, LILY, LN_TUNING (BERT: with ``target_modules``), LOHA, LOKR, MISS, OFT,
    PEANUT, PSOFT, PVERA, RANDLORA, ROAD, SHADOW (BERT: no), SHIRA, SUPERTUNING, TINYLORA, UNILORA, VBLORA, VERA, WAVEFT.
    """

    name = "peft"
    paper = "https://huggingface.co/docs/peft"
    example = 'peft("VERA", r=8, lr=0.03)'
    needs = ("peft",)

    method: str
    arguments: tuple[tuple[str, Any], ...] = ()
    lr: Annotated[float, Gt(0)] = 3e-3
    share: Annotated[float, Gt(0), Le(1)] = 1.0

    def __init__(self, method: str, *, lr: float = 3e-3, share: float = 1.0, **arguments: Any) -> None:
        frozen = tuple(sorted((name, _frozen(name, value)) for name, value in arguments.items()))
        vars(self).update(method=method, arguments=frozen, lr=lr, share=share)
        self.__post_init__()
        self._check()

    @property
    def adds(self) -> frozenset[Fact]:
        """An adapter, which some of PEFT's methods can fold into the weights."""
        return frozenset({"adapter", "mergeable"}) if self.method in MERGEABLE else frozenset({"adapter"})

    @property
    def refuses(self) -> tuple[tuple[Fact, str], ...]:
        """What PEFT's method was not made for."""
        reasons = [*_peft.REFUSES]
        if self.method in UNFIT:
            return tuple(reasons)
        if self.method not in QUANTIZED:
            plain = (
                f"PEFT's {self.method} needs plain weights, and these are quantized; with them go lora, adalora and ia3"
            )
            reasons += [("quantized", plain)]
        if "target_modules" in _known(self.method):
            whole = "PEFT takes whole linear layers, and here each is the product of two; leave low_rank out"
            reasons += [("factored", whole)]
        return tuple(reasons)

    @classmethod
    def build(cls, arguments: list[Any], keywords: Mapping[str, Any], defaults: Mapping[str, Any]) -> Self:
        """PEFT's name first, and everything else by its name."""
        if len(arguments) > 1:
            raise RecipeError(f"{cls.name}: write PEFT's arguments by name, as in `{cls.example}`")
        given = {**defaults, **dict(zip(["method"], arguments, strict=False))}
        if given.keys() & keywords.keys() & {"method"} and arguments:
            raise RecipeError(f"{cls.name}: argument `method` is given twice")
        given |= keywords
        if "method" not in given:
            raise RecipeError(f"{cls.name}: argument `method` is missing, as in `{cls.example}`")
        return cls(**given)

    def arguments_given(self) -> Iterable[tuple[str, Any, Any]]:
        """PEFT's arguments stand between the method's name and the recipe's own."""
        yield "method", self.method, MISSING
        yield from ((name, value, MISSING) for name, value in self.arguments)
        yield from (row for row in super().arguments_given() if row[0] in ("lr", "share"))

    def problems(self, context: PlanContext) -> Iterator[str]:
        """What it was not made for, or was tried and did not work."""
        if self.method in UNFIT:
            yield f"{self.method}: {UNFIT[self.method]}"
            return
        known = _known(self.method)
        if context.task.new_head and "modules_to_save" not in known:
            yield f"PEFT's {self.method} would leave the classifier's new head untrained; it is for language models"
        chosen = getattr(_tuner(self.method), "target_module_mapping", None) or {}
        if "target_modules" in known and "target_modules" not in dict(self.arguments) and context.model not in chosen:
            yield f"PEFT does not know which layers of a {context.model} model to take; name them with `target_modules`"

    def on_model(self, training: Training) -> None:
        """Put the adapter on."""
        _peft.attach(training, _config(self.method, self.arguments, training.task.peft_task_type))

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """The base is bit-identical, the adapter is the one that was asked for, and switching it off changes outputs."""
        yield from _added.claims(before, work, _prefix(self.method))
        config: Any = _peft.active(work.model)
        wanted = _config_class(self.method)
        yield Claim(f"PEFT's {wanted.__name__} is at work", type(config) is wanted, f"it is {type(config).__name__}")
        off = [name for name, value in self.arguments if _thawed(getattr(config, name, None)) != _thawed(value)]
        yield Claim(
            "its arguments are those given", not off, f"{len(self.arguments) - len(off)} of {len(self.arguments)}"
        )
        yield _peft.told(work)
        change = _change(work)
        yield Claim("switching it off changes the outputs", change > 0, f"relative difference {change:.1e}")

    def _check(self) -> None:
        types = _types()
        if self.method not in types:
            raise RecipeError(f"{self.name}: PEFT has no method `{self.method}`{nearest(self.method.upper(), types)}")
        if own := OWN.get(self.method):
            raise RecipeError(f"{self.name}: {self.method} has a method of its own here: `{own}`")
        if self.method in UNFIT:
            return
        known = _known(self.method)
        hints = typing.get_type_hints(_config_class(self.method))
        for name, value in self.arguments:
            if name not in known:
                raise RecipeError(f"{self.name}: {self.method} has no argument `{name}`{nearest(name, known)}")
            _check_type(f"{self.name}: {self.method}: {name}", hints[name], value)
        try:
            _config(self.method, self.arguments, None)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"{self.name}: {self.method}: {error}") from None


def _types() -> list[str]:
    _peft.load()
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return [kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING]


def _config_class(method: str) -> Any:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return PEFT_TYPE_TO_CONFIG_MAPPING[method]


def _tuner(method: str) -> Any:
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    return PEFT_TYPE_TO_TUNER_MAPPING.get(method)


def _prefix(method: str) -> str:
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    return str(PEFT_TYPE_TO_PREFIX_MAPPING[method])


def _known(method: str) -> set[str]:
    """The arguments that a recipe may give."""
    return {field.name for field in dataclasses.fields(_config_class(method))} - _OURS


def _config(method: str, arguments: tuple[tuple[str, Any], ...], task_type: str | None) -> Any:
    with _peft.quiet():
        return _config_class(method)(task_type=task_type, **{name: _thawed(value) for name, value in arguments})


def _frozen(name: str, value: Any) -> Any:
    """Lists as tuples, which can be compared and hashed."""
    if isinstance(value, list | tuple):
        return tuple(_frozen(name, item) for item in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise RecipeError(f"peft: {name}: a {type(value).__name__} cannot be written in a recipe")


def _thawed(value: Any) -> Any:
    """Lists again, which is what PEFT looks for; it keeps some as sets."""
    if isinstance(value, set):
        return sorted(value)
    return [_thawed(item) for item in value] if isinstance(value, tuple) else value


def _check_type(where: str, hint: Any, value: Any) -> None:
    import pydantic

    try:
        pydantic.TypeAdapter(hint, config=pydantic.ConfigDict(strict=True)).validate_python(_thawed(value))
    except pydantic.ValidationError as error:
        raise RecipeError(f"{where}: {error.errors(include_url=False)[0]['msg'].lower()}, found {value!r}") from None


def _change(work: Training) -> float:
    """How much the body's outputs on the probe batch differ with the adapter switched off."""
    import torch

    from bench.models.modes import evaluating

    adapters = [module for module in work.model.modules() if hasattr(module, "disable_adapter")]
    if not adapters:
        return 0.0
    trained = [parameter for parameter in work.model.parameters() if parameter.requires_grad]
    with evaluating(work.model), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        on = _hidden(work)
        with adapters[0].disable_adapter():  # type: ignore[operator]
            off = _hidden(work)
    for parameter in trained:  # switching off and on again freezes them
        parameter.requires_grad_(True)
    return float((on - off).norm() / off.norm())


def _hidden(work: Training) -> torch.Tensor:
    from bench.models.architecture import body

    hidden: torch.Tensor = body(work.model)(**work.probe.inputs)[0].float()
    return hidden
