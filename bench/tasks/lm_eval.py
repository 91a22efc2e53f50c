"""Which tasks lm-eval, the EleutherAI harness, is to score: ``[measure] quality = "lm-eval:hellaswag,gsm8k"``.

https://github.com/EleutherAI/lm-evaluation-harness. A name is one of its tasks, groups and tags, or a task whose YAML file
stands beside the suite; paths in such a file begin there too. No torch here until tasks are loaded.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.recipe.errors import nearest

PREFIX = "lm-eval:"


class LmEvalError(Exception):
    """lm-eval cannot score. The message says why, and how to mend it."""


def names_in(quality: bool | str) -> tuple[str, ...]:
    """The names that `quality`, of a suite's ``[measure]``, has for lm-eval; none where it is true or false.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(quality, bool):
        return ()
    names = tuple(name.strip() for name in str(quality).removeprefix(PREFIX).split(","))
    if not isinstance(quality, str) or not quality.startswith(PREFIX) or not all(names) or len({*names}) < len(names):
        raise ValueError(
            f'true, false, or "{PREFIX}" with names of its tasks, each once, as in "{PREFIX}hellaswag,gsm8k"; found {quality!r}'
        )
    return names


def problems(names: Sequence[str], suite_folder: Path) -> list[str]:
    """Why lm-eval cannot score these, in a sentence each."""
    if importlib.util.find_spec("lm_eval") is None:
        return ['it needs lm-eval: pip install -e ".[lm-eval]" -c constraints.txt']
    own = _own_tasks(suite_folder)
    unknown = [name for name in names if name not in own and name not in _folders()]
    known = {*own, *_manager().all_tasks} if unknown else set()  # which takes ten seconds
    return [f"lm-eval has no task `{name}`{nearest(name, known)}" for name in unknown if name not in known]


def fingerprint(names: Sequence[str], suite_folder: Path) -> str:
    """A hash of lm-eval's version, and of the files beside the suite that define tasks or that these name."""
    from importlib import metadata

    digest = hashlib.sha256(metadata.version("lm_eval").encode())
    own = _own_tasks(suite_folder)
    waiting = [own[name] for name in names if name in own]
    seen: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)} ".encode() + content)
        if file.suffix in (".yaml", ""):
            # A file of data, another that is included, or `module.function` of one in Python.
            words = dict.fromkeys(re.findall(r"[\w./-]{1,200}", content.decode("utf-8", "replace")))
            there = (suite_folder / each for word in words for each in (word, f"{word.partition('.')[0]}.py"))
            waiting += [each for each in there if each.is_file()]
    return digest.hexdigest()


def _own_tasks(suite_folder: Path) -> dict[str, Path]:
    """The YAML files beside the suite that define a task, by its name."""
    files = (file for file in sorted(suite_folder.glob("*.yaml")) if file.is_file())
    return {name: file for file in files for name in _defined(file, "task")}


@functools.cache
def _folders() -> Mapping[str, frozenset[Path]]:
    """Of lm-eval's tasks, groups and tags, those that files name in plain words: the folders of these, seen from its own.

    Half a second, where lm-eval itself reads its 14,000 files in ten.
    """
    root = _root()
    found: dict[str, set[Path]] = {}
    for file in root.rglob("*.yaml"):
        for name in _defined(file, "task|group|tag"):
            found.setdefault(name, set()).add(root / file.relative_to(root).parts[0])
    return {name: frozenset(folders) for name, folders in found.items()}


def _root() -> Path:
    import lm_eval.tasks

    return Path(lm_eval.tasks.__path__[0])


def _defined(file: Path, keys: str) -> list[str]:
    """What stands after one of the `keys` at the beginning of a line."""
    text = file.read_text(encoding="utf-8", errors="replace")
    return re.findall(rf"^(?:{keys}): *[\"']?([^\s\"'#\[]+)", text, re.M)


def load(names: Sequence[str], suite_folder: Path) -> tuple[Any, list[Any]]:
    """lm-eval's index, and the tasks and groups called `names` with their data read.

    Raises:
        LmEvalError: the data are neither here nor reachable.
    """
    own = _own_tasks(suite_folder)
    specs = [str(own.get(name, name)) for name in names]
    folders = {folder for name in names if name not in own for folder in _folders().get(name, ())}
    manager = _manager(folders)
    try:
        try:
            found = manager.load(specs)
        except KeyError:  # a group of what other folders define
            manager = _manager()
            found = manager.load(specs)
    except OSError as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LmEvalError(
            f"the data of {', '.join(names)} are neither on this machine nor reachable ({said}); run it once where they are, "
            "with HF_HUB_OFFLINE=0"
        ) from error
    every = {**found["tasks"], **found["groups"]}
    inner = {name for group in found["groups"] for name in below(found["group_map"], group)}
    return manager, [each for name, each in every.items() if name not in inner]


def _manager(folders: Iterable[Path] | None = None) -> Any:
    """lm-eval's own index: of its tasks in `folders`, or of all."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=[str(each) for each in sorted(folders or ())], include_defaults=folders is None)


def below(groups: Mapping[str, Sequence[str]], name: str) -> Iterator[str]:
    """The tasks and groups in the group `name`, and in those."""
    for child in groups.get(name, ()):
        yield child
        yield from below(groups, child)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """lm-eval warns of each model that is given in memory, and tells what it does."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
