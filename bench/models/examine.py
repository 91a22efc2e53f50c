"""Find a model's :class:`~bench.models.structure.Structure`: built on torch's "meta" device, so no weight takes memory.

Only planning's own process and the process that loads a model import this: it imports torch.
"""

from __future__ import annotations

import copy
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.models import architecture, conventions, passes, signature
from bench.models.structure import Structure

Report = Mapping[str, Any]
"""transformers' loading report: ``missing_keys``, ``unexpected_keys`` and ``mismatched_keys``."""

_WRAPPERS = ("_orig_mod.", "module.", "base_model.model.", "model.")


def main() -> None:
    """Read a job from standard input, and print the structure as the last line."""
    from bench.models.registry import open_model

    job = json.load(sys.stdin)
    options = job["options"]
    if "id2label" in options:  # JSON has no whole numbers as keys
        options["id2label"] = {int(number): label for number, label in options["id2label"].items()}
    model = open_model(job["model"], Path(job["suite_folder"]), allow_remote_code=job["allow_remote_code"])
    found = model.examine(job["auto_class"], options)
    print(found.spell())  # noqa: T201


def structure(model: nn.Module) -> Structure:
    """What the modules of `model` show. Its weights may be on "meta"."""
    config = architecture.config(model)
    untold = dict(_untold(model))
    blocks = [] if "blocks" in untold else architecture.blocks(model)
    stacks = tuple(map(len, architecture.stacks(model)))
    counted = getattr(config, "num_hidden_layers", None)
    body = architecture.body(model)
    pair = bool(getattr(config, "is_encoder_decoder", False))
    embeddings = architecture.embeddings(model)
    head = _source(type(model).forward)
    meta = next(model.parameters()).device.type == "meta"
    return Structure(
        config=_complete(config) | _widths(model, untold),
        stacks=stacks,
        repeats=len(stacks) == 1 and isinstance(counted, int) and counted > stacks[0],
        not_linear=() if "blocks" in untold else _names(architecture.not_linear(model).values()),
        untold=untold,
        biases=sum(name.rpartition(".")[2] == "bias" for block in blocks for name, _ in block.named_parameters()),
        layers=_layers(model),
        targets={method: targets(model, method) for method in ("LORA", "ADALORA", "IA3")},
        cache="" if pair else _cache(model, body),
        cache_heads=passes.cache_heads(model) if meta and not pair else None,
        encoder_decoder=pair,
        needs_ids=any(word in head for word in ("pad_token_id", "eos_token_id")),
        reads_end="eos_token_id" in head,
        checkpoints=bool(getattr(model, "supports_gradient_checkpointing", False)),
        casts=_casts(blocks),
        embeddings=len(next(embeddings.parameters())),
        positions=_positions(body, config),
        auto_classes=auto_classes(architecture.unwrapped(model).config),
        drops=_drops(model, body),
        packs=not pair and _packs(body),
    )


def auto_classes(config: Any) -> tuple[str, ...]:
    """The auto classes of transformers that have a model for this configuration, by name."""
    import transformers

    named = [name for name in dir(transformers) if name.startswith("AutoModel")]
    mappings = {name: getattr(getattr(transformers, name), "_model_mapping", ()) for name in sorted(named)}
    return tuple(name for name, mapping in mappings.items() if type(config) in mapping)


def _drops(model: nn.Module, body: nn.Module) -> tuple[str, ...]:
    inside = set(body.modules())
    return tuple(sorted({"body" if module in inside else "head" for module, _, p in architecture.dropouts(model) if p}))


def _packs(body: nn.Module) -> bool:
    """Whether the code of `body` gives positions to transformers' function that makes the mask, which tells items apart by them."""
    code = re.sub(r"\s", "", _source(type(body).forward))
    calls = re.findall(r"(?:create_\w*mask|mask_function)\(([^()]*(?:\([^()]*\)[^()]*)*)\)", code)
    return any("position_ids" in call or "mask_kwargs" in call for call in calls)


def _widths(model: nn.Module, untold: Mapping[str, str]) -> dict[str, int]:
    """The width inside of the feed-forward layers by transformers' standard name, where all blocks have the same."""
    found = set() if "feed_forward" in untold else {down.in_features for _, down in architecture.feed_forward(model)}
    return {conventions.INNER_WIDTH[0]: found.pop()} if len(found) == 1 else {}


def _untold(model: nn.Module) -> Iterable[tuple[str, str]]:
    """The parts that are not known, each with why."""
    parts: tuple[Callable[[nn.Module], Any], ...] = (
        architecture.blocks,
        architecture.stack,
        architecture.attention,
        architecture.attention_outputs,
        architecture.feed_forward,
        architecture.feed_forward_outputs,
    )
    if next(model.parameters()).device.type == "meta":
        parts += (passes.row, passes.fewer_heads, passes.fewer_channels, passes.parts_of_blocks)
    for part in parts:
        try:
            part(model)
        except (ValueError, AttributeError) as error:
            yield part.__name__, str(error)


def _complete(config: Any) -> dict[str, Any]:
    """The configuration as a table of JSON values, with transformers' standard names beside the model's own."""
    table = config.to_dict()
    for standard in config.attribute_map or {}:
        table.setdefault(standard, getattr(config, standard, None))
    for name in ("num_hidden_layers", "num_attention_heads", "hidden_size"):
        table.setdefault(name, getattr(config, name, None))
    found: dict[str, Any] = json.loads(json.dumps(table, default=str))
    return found


def _names(modules: Iterable[nn.Module]) -> tuple[str, ...]:
    return tuple(sorted({type(module).__name__ for module in modules}))


def _layers(model: nn.Module) -> dict[str, str]:
    found = {name.rpartition(".")[2]: module for name, module in model.named_modules() if _adaptable(module)}
    return {name: "Embedding" if isinstance(found[name], nn.Embedding) else "Linear" for name in sorted(found)}


def _adaptable(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Embedding | nn.Conv1d | nn.Conv2d) or type(module).__name__ == "Conv1D"


def targets(model: nn.Module, method: str) -> tuple[str, ...]:
    """The layers that PEFT's `method` ("LORA", "ADALORA" or "IA3") is put on where a recipe names none; maybe none.

    They are PEFT's own choice for the architecture, where it has one that is there; else, for the first two, the
    layers that make queries and values, which is what PEFT chooses where it chooses.
    """
    from peft.utils import constants

    chosen = getattr(constants, f"TRANSFORMERS_MODELS_TO_{method}_TARGET_MODULES_MAPPING")
    wanted = chosen.get(architecture.config(model).model_type) or chosen.get(
        architecture.unwrapped(model).config.model_type, ()
    )
    there = {name.rpartition(".")[2] for name, module in model.named_modules() if _adaptable(module)}
    if found := tuple(name for name in wanted if name.rpartition(".")[2] in there):
        return found
    if method == "IA3":  # it must also know which layers are feed-forward ones
        return ()
    return architecture.queries_and_values(model)


def _cache(model: nn.Module, body: nn.Module) -> str:
    """Whether the model takes a cache of keys and values, or its body alone does."""
    names = {*conventions.CACHES} - {"cache_params"}  # states are no keys and values
    if names & signature.arguments(model).keys():
        return "model"
    return "body" if names & inspect.signature(body.forward).parameters.keys() else ""


def _source(function: Any) -> str:
    try:
        return inspect.getsource(inspect.unwrap(function))
    except (OSError, TypeError):
        return ""


def _casts(blocks: Iterable[nn.Module]) -> tuple[str, ...]:
    """Classes of modules in the blocks whose code casts activations to the type of a weight, as T5's does."""
    classes = {type(module) for block in blocks for module in block.modules()}
    inside = re.compile(r"\.to\(\s*self\.\w[\w.]*\.weight\.dtype\s*\)")
    return tuple(sorted(cls.__name__ for cls in classes if inside.search(_source(cls.forward))))


def _positions(body: nn.Module, config: Any) -> int | None:
    """How many tokens a pass may have: fewer than the embeddings of positions where some of these are never used."""
    limits = [getattr(config, name, None) for name in conventions.POSITIONS]
    for name, module in body.named_modules():
        own = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and "position" in own and "relative" not in name:
            # RoBERTa counts from behind the padding's number on, OPT and BART have two rows that stand for nothing.
            unused = getattr(module, "offset", 0) or (0 if module.padding_idx is None else module.padding_idx + 1)
            limits.append(module.num_embeddings - unused)
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=None)


# -- what the weights' files hold


def expected(config: Any, auto_class: str, *, new_head: bool) -> tuple[nn.Module, Report]:
    """The model of `config` on "meta", and a report as of weights that have what it says, where they cannot be looked at.

    A `new_head`, which the task makes, is among them if the configuration is of a model with that very head.
    """
    import transformers

    config = copy.deepcopy(config)
    vars(config).pop("quantization_config", None)
    with torch.device("meta"):
        model: nn.Module = getattr(transformers, auto_class).from_config(
            config, dtype=torch.float32, trust_remote_code=True
        )
    there = not new_head or type(model).__name__ in (config.architectures or ())
    return model, {"missing_keys": [] if there else list(architecture.head_parameters(model)), "unexpected_keys": []}


def read(found: Structure, model: nn.Module, report: Report, where: str, *, new_head: bool) -> Structure:
    """`found` with what transformers' loading `report` says of the weights in the folder `where`.

    Of a `new_head`, which the task makes, all may be missing, and a pooler; what belongs to another head may be there in excess.
    All else that is missing or in excess means that the model would run with weights that are not the folder's.
    """
    inside = {id(parameter) for parameter in architecture.body(model).parameters()}
    names = {
        name: (id(parameter) in inside or not new_head) and not architecture.pools(name)
        for name, parameter in model.named_parameters()
    }
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    lost = [key for key in missing if names.get(key, False)]
    foreign = [key for key in unexpected if _belongs(key, names, model)]
    problems = []
    if lost or foreign:
        all_lost = len(lost) == sum(names.values())
        problems.append(f"{where}: {_told(lost, foreign)}; {_mend(lost, foreign, found, all_lost=all_lost)}")
    if other := sorted(str(key) for key, *_ in report.get("mismatched_keys", ()) if names.get(key, False)):
        problems.append(
            f"{where}: {len(other)} weights have other shapes than config.json says, as {other[0]}; "
            "copy the config.json that belongs to these weights"
        )
    return replace(found, problems=(*found.problems, *problems), new=tuple(key for key in missing if key in names))


def _belongs(key: str, names: Mapping[str, bool], model: nn.Module) -> bool:
    """Whether a weight that the model has no place for is one of its body's, under another name or of another block."""
    if key.endswith(conventions.OLD_BUFFERS) or architecture.pools(key):
        return False
    plain = key
    for wrapper in _WRAPPERS:
        plain = plain.removeprefix(wrapper)
        if plain != key and (plain in names or f"{architecture.unwrapped(model).base_model_prefix}.{plain}" in names):
            return True
    if key.startswith(f"{architecture.unwrapped(model).base_model_prefix}."):
        return True
    patterns = {re.sub(r"\.\d+\.", ".#.", f".{name}") for name in names}
    pattern = re.sub(r"\.\d+\.", ".#.", f".{key}")
    return "#" in pattern and any(known.endswith(pattern) for known in patterns)


def _told(lost: list[str], foreign: list[str]) -> str:
    said = []
    if lost:
        said.append(f"the model's code has {len(lost)} weights that the file lacks, as {lost[0]}")
    if foreign:
        said.append(f"the file has {len(foreign)} weights that the model's code has no place for, as {foreign[0]}")
    return " and ".join(said)


def _mend(lost: list[str], foreign: list[str], found: Structure, *, all_lost: bool) -> str:
    for wrapper in _WRAPPERS[:2]:
        if foreign and all(key.startswith(wrapper) for key in foreign):
            return (
                f"they were saved from a wrapped model: take the prefix `{wrapper}` off all names and save them again"
            )
    count = re.compile(r"\.(\d+)\.")
    if all_lost and not foreign:
        return "none of the body's weights is there: the file is empty, or config.json is of another architecture; copy both from one place"
    if lost and foreign:
        return "the names differ: save the model with its save_pretrained, or copy the config.json that belongs to it"
    if any(count.search(key) for key in [*lost, *foreign]):
        layers = found.config.get("num_hidden_layers")
        return f"config.json counts {layers} layers, and the file has another number; copy the config.json that belongs to it"
    return "save the model with its save_pretrained, or copy the config.json that belongs to these weights"


# -- the head


def with_head(found: Structure, model: nn.Module, config: Mapping[str, Any], options: Mapping[str, Any]) -> Structure:
    """`found` with what becomes of the head: kept where it was trained for the same labels, else made new.

    `config` is what ``config.json`` says; `options` are the task's, with its labels if it has any.
    """
    head = tuple(architecture.head_parameters(model))
    if set(head) & set(found.new):
        return replace(found, head="new")
    if "id2label" not in options:
        return replace(found, head="pretrained")
    wanted = {_label(label): number for number, label in options["id2label"].items()}
    given = config.get("id2label") or {}
    theirs = {_label(label): int(number) for number, label in given.items()}
    made_for = (config.get("architectures") or [""])[0]
    same = made_for.endswith("For" + type(model).__name__.rpartition("For")[2])
    if same and theirs.keys() == wanted.keys() and len(wanted) == len(options["id2label"]):
        order = tuple(theirs[label] for label in sorted(wanted, key=wanted.__getitem__))
        note = "the trained head is kept: it has the same labels as the data"
        return replace(found, head="kept", order=order, notes=(*found.notes, note))
    own = f"{', '.join(map(str, list(given.values())[:4]))}{', …' if len(given) > 4 else ''}"
    note = f"the head is made new: that of the file is of a {made_for or 'model without a name'}"
    if same:
        note = f"the head is made new: the trained one has other labels than the data ({own or 'none by name'})"
    return replace(found, head="new", new=tuple(dict.fromkeys([*found.new, *head])), notes=(*found.notes, note))


def _label(label: object) -> str:
    return str(label).strip().casefold()


def fit_head(model: nn.Module, found: Structure) -> None:
    """Draw the new parameters of `model` that a file had other numbers for, or put a kept head's labels in order."""
    if found.head == "new":
        chosen = {id(parameter) for parameter in architecture.head_parameters(model).values()}
        stale = [p for name, p in model.named_parameters() if id(p) in chosen and name in found.new]
        if any(getattr(parameter, "_is_hf_initialized", False) for parameter in stale):
            for module in model.modules():
                own = list(module.parameters(recurse=False))
                if own and all(id(parameter) in chosen for parameter in own):
                    for each in (module, *own):
                        vars(each).pop("_is_hf_initialized", None)
                    model._init_weights(module)  # type: ignore[operator]
    if found.head == "kept" and list(found.order) != sorted(found.order):
        _reorder(model, found.order)


def _reorder(model: nn.Module, order: tuple[int, ...]) -> None:
    """Put the rows of the layer that gives the logits, the last of the head, in this order."""
    heads = {id(parameter) for parameter in architecture.head_parameters(model).values()}
    layers = [
        m
        for m in model.modules()
        if isinstance(m, nn.Linear) and id(m.weight) in heads and m.out_features == len(order)
    ]
    with torch.no_grad():
        for parameter in layers[-1].parameters(recurse=False):
            parameter.copy_(parameter[list(order)].clone())


# -- the tokenizer


def tokens(found: Structure, tokenizer: Any, where: str) -> Structure:
    """`found` with what is to be said of the tokenizer: tokens beyond the embeddings, and how texts are padded."""
    special = set(tokenizer.all_special_ids)
    numbers = [*(n for n in tokenizer.get_vocab().values() if n not in special), *tokenizer("a")["input_ids"]]
    beyond = sorted({number for number in numbers if number >= found.embeddings})
    problems, notes = [], []
    if beyond:
        problems.append(
            f"{where}: the tokenizer has {len(beyond)} tokens from number {beyond[0]} on, and the model has embeddings for "
            f"{found.embeddings} tokens; call model.resize_token_embeddings(len(tokenizer)) and save both, or copy the right tokenizer"
        )
    padding, said = padding_token(tokenizer, found)
    if found.reads_end and tokenizer("a")["input_ids"].count(tokenizer.eos_token_id) != 1:
        problems.append(
            f"{where}: the model's head reads the end token of a text, and the tokenizer does not end a text with one; "
            "copy the tokenizer that belongs to the model"
        )
    if padding is None:
        problems.append(
            f"{where}: the tokenizer has no padding token, nor one to take for it; set pad_token and save it there"
        )
    elif said:
        notes.append(said)
    return replace(
        found,
        problems=(*found.problems, *problems),
        notes=(*found.notes, *notes),
        chat_template=bool(tokenizer.chat_template),
    )


def padding_token(tokenizer: Any, found: Structure) -> tuple[str | None, str]:
    """The token to pad texts with, and what is to be said of it, if anything: the tokenizer's own where it has one.

    Padding is masked, so any token will do that the model has an embedding for; the end of a text is transformers' habit.
    """
    own = tokenizer.pad_token
    end = {tokenizer.eos_token} if found.reads_end else set()
    if own is not None and own not in end and tokenizer.pad_token_id < found.embeddings:
        return own, ""
    why = (
        "the tokenizer has no padding token"
        if own is None
        else f"the model has no embedding for the padding token `{own}`"
    )
    for name in ("eos_token", "unk_token", "bos_token"):
        token = getattr(tokenizer, name, None)
        if token is not None and token not in end and tokenizer.convert_tokens_to_ids(token) < found.embeddings:
            return token, f"{why}: texts are padded with `{token}`, which the attention mask hides"
    return None, ""


if __name__ == "__main__":
    main()
