"""What methods built on PEFT share."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.models.names import plain
from bench.recipe.declarations import Fact
from bench.recipe.errors import nearest
from bench.stage.evidence import Claim
from methods import _added, _refusals

if TYPE_CHECKING:
    from types import ModuleType

    import torch
    from torch import nn

    from bench.plan.context import PlanContext
    from bench.stage.loop import Training
    from bench.stage.work import Work

REFUSES: tuple[tuple[Fact, str], ...] = (
    ("adapter", "there is an adapter on the model already; {fold}"),
    ("inference_only", _refusals.INFERENCE_ONLY),
)
"""What no adapter can be put on."""

REFUSES_BESIDE_LAYERS: tuple[tuple[Fact, str], ...] = (
    *REFUSES,
    (
        "factored",
        "PEFT takes whole linear layers, and here each is the product of two; train with full, or leave low_rank out",
    ),
)
"""What no adapter can be put on that stands beside linear layers."""


def problems(
    context: PlanContext, method: str, *, targets: Sequence[str] | None = None, embeddings: bool = False
) -> Iterator[str]:
    """What keeps an adapter from being put beside chosen layers; `method` is PEFT's name of it.

    `targets` are the layers that a recipe names, and `embeddings` is whether these may be embeddings.
    """
    structure = context.structure
    if not targets and structure.layers and not structure.targets.get(method):
        mend = "name them with `targets`" if method != "IA3" else "use lora, and name them with `targets`"
        yield f"PEFT does not know which layers of a {context.model} model to take; {mend}"
    for name in targets or ():
        kind = structure.layers.get(name.rpartition(".")[2])
        if structure.layers and kind is None:
            yield f"targets: the model has no layer called `{name}`{nearest(name, structure.layers)}"
        if kind == "Embedding" and not embeddings:
            yield f"targets: `{name}` is an embedding, and this is put on linear layers; use lora, in its plain variant"


def load() -> ModuleType:
    """PEFT, imported without what it and all that it imports have to say of kernels that are not there."""
    if "peft" in sys.modules:
        return sys.modules["peft"]
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 2)
    try:
        import peft
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    return peft  # type: ignore[no-any-return]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """PEFT asks transformers by names that it deprecates, and says what no user of ours can change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def attach(training: Training, config: Any) -> None:
    """Put the adapter that `config` describes on the model; what was made new for the task trains beside it."""
    from bench.models.architecture import modules_of

    beside = _added.new_weights(training.model)
    if hasattr(config, "modules_to_save"):
        config.modules_to_save = modules_of(training.model, beside) or None
    with quiet():
        training.model = load().get_peft_model(training.model, config)
    # PEFT trains copies of whole modules; what is in no such module trains where it is.
    copied = {id(p) for name, p in training.model.named_parameters() if ".original_module." in name}
    for parameter in beside.values():
        if id(parameter) not in copied:
            parameter.requires_grad_(True)
    _added.remember(training)


def config(training: Training, name: str, **options: Any) -> Any:
    """PEFT's configuration class `name` for the training's task."""
    with quiet():
        return getattr(load(), name)(task_type=training.task.peft_task_type, **options)


def without_prompts(context: PlanContext) -> Iterator[str]:
    """PEFT puts learned tokens before a text by a model class for the kind of task."""
    if context.task.peft_task_type is None:
        yield f"PEFT has no model for a {context.task.kind} task that puts anything before a text; use lora"


def sizes(training: Training) -> dict[str, int]:
    """The sizes that PEFT's learned prompts are made by, for which PEFT does not know the names of all models."""
    from bench.models.architecture import config

    found = config(training.model)
    return {"token_dim": found.hidden_size, "num_attention_heads": found.num_attention_heads}


def active(model: nn.Module) -> Any:
    """The configuration of the adapter on `model`, which another method may have wrapped."""
    return next((module.peft_config["default"] for module in model.modules() if hasattr(module, "peft_config")), None)  # type: ignore[index]


def layers(model: nn.Module, part: str) -> dict[str, Any]:
    """The layers of `model` that have `part` of an adapter, by the names that they had before."""
    from bench.models.names import plain

    return {plain(name): module for name, module in model.named_modules() if "default" in getattr(module, part, ())}


def virtual_tokens(model: nn.Module) -> Any:
    """What a prompt or prefix learns, a row for each virtual token; None where there is none."""
    found = [parameter for name, parameter in model.named_parameters() if "prompt_encoder" in name]
    return found[0] if found else None


def probe_gradient(work: Training, parameter: nn.Parameter) -> torch.Tensor:
    """The probe batch's gradient at `parameter`; all gradients are taken away again."""
    from bench.models.modes import evaluating

    work.optimizer.zero_grad(set_to_none=True)
    with evaluating(work.model):
        work.gradients(work.probe, 1.0)
    gradient = parameter.grad if parameter.grad is not None else parameter.detach() * 0
    work.optimizer.zero_grad(set_to_none=True)
    return gradient


def adapted(work: Training, layers: Mapping[str, Any], method: str, targets: Sequence[str] | None) -> Iterator[Claim]:
    """The adapted layers are those of all blocks that are named, or that PEFT's own table names for the model."""
    from bench.models.architecture import blocks, unwrapped

    load()
    from peft.utils import constants

    table = getattr(constants, f"TRANSFORMERS_MODELS_TO_{method}_TARGET_MODULES_MAPPING", {})
    named = targets or table.get(unwrapped(work.model).config.model_type)
    inside: list[set[str]] = []
    for block in blocks(work.model):
        modules = set(block.modules())
        inside.append({plain(name) for name, module in work.model.named_modules() if module in modules})
    counts = [len(names & layers.keys()) for names in inside]
    if isinstance(named, list | tuple):
        # By the last parts of their names; what an adapter has inside of a layer is called otherwise.
        wanted = [
            {name for name in names if any(f".{name}".endswith(f".{target}") for target in named)} for names in inside
        ]
        right = [names & layers.keys() == expected for names, expected in zip(inside, wanted, strict=True)]
        told = f"{', '.join(named)} in each block"
    else:
        most = max(counts, default=0)
        right, told = [count == most > 0 for count in counts], "as many layers of each block as of any other"
    yield Claim(
        f"adapted are {told}",
        bool(right) and all(right),
        f"{sum(counts)} layers in {sum(right)} of {len(right)} blocks",
    )


def told(work: Work) -> Claim:
    """PEFT knows which task the model is for, as who loads the adapter asks."""
    peft = load()
    wanted = peft.MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(work.task.peft_task_type, peft.PeftModel).__name__
    # FSDP puts a class of its own before the model's.
    bases = [cls.__name__ for module in work.model.modules() for cls in type(module).__mro__]
    found = next((name for name in bases if name.startswith("PeftModel")), "no PEFT model")
    return Claim("PEFT knows the task", found == wanted, found)


def dropouts(work: Training, layers: Mapping[str, Any], p: float) -> Claim:
    """What goes into the updates drops out with a probability of `p`, or of another method's that sets all."""
    from torch import nn

    if p:
        p = next((modifier.p for modifier in work.stage.modifiers if "sets_dropout" in modifier.traits), p)  # type: ignore[attr-defined]
    found = [layer.lora_dropout["default"] for layer in layers.values()]
    seen = [module.p if isinstance(module, nn.Dropout) else 0.0 for module in found]
    return Claim(
        f"adapted layers drop out with a probability of {p:g}",
        bool(seen) and set(seen) == {p},
        f"{seen.count(p)} of {len(seen)}",
    )


def computed(
    work: Training,
    layers: Mapping[str, Any],
    text: str,
    wanted: Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor],
) -> Claim:
    """Each layer gives what `wanted` makes of the layer, its input and its base's output, on the probe batch."""
    import torch

    errors: dict[Any, float] = {}

    def note(layer: Any, args: tuple[Any, ...], output: torch.Tensor) -> None:
        plain_output = layer.base_layer(args[0])
        expected = wanted(layer, args[0], plain_output)
        update = float((expected - plain_output).float().norm())
        error = float((output - expected).float().norm())
        rounding = 4 * torch.finfo(output.dtype).eps * float(expected.float().norm())
        errors[layer] = error / (1e-2 * update + rounding) if update or rounding else error

    hooks = [layer.register_forward_hook(note) for layer in layers.values()]
    work.probe_logits()
    for hook in hooks:
        hook.remove()
    right = sum(error <= 1 for error in errors.values())
    return Claim(text, right == len(layers) > 0, f"{right} of {len(layers)} layers")
