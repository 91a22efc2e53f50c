"""Models on the Hugging Face hub: from the local cache where they are there, else fetched once, before any stage.

huggingface_hub finds, fetches and keeps them, where ``HF_HOME`` and ``HF_HUB_CACHE`` say.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.machine import disk, hub
from bench.models.base import ModelError
from bench.models.sources import adapter
from bench.models.sources.directory import SMALL, Directory
from bench.recipe.errors import first_line

NAME = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")
"""``organisation/model``, and a branch, a tag or a commit behind an ``@``."""

_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors")


@dataclass(frozen=True)
class Snapshot:
    """A repository at a commit: the folder of the cache that holds it, and the bytes that are still to be fetched."""

    repository: str
    commit: str
    folder: Path
    missing: Mapping[str, int] = field(default_factory=dict)


class Hub(Directory):
    """A snapshot of a repository of the hub. Only its weights may not be there yet."""

    def __init__(self, name: str, snapshot: Snapshot, *, allow_remote_code: bool = False) -> None:
        super().__init__(snapshot.folder, allow_remote_code=allow_remote_code)
        self.name = name
        self.snapshot = snapshot

    def problems(self) -> list[str]:
        """Name what is missing; weights that are to be fetched are not."""
        return self._problems(weights=not self.to_make())

    def fingerprint(self) -> str:
        """The commit, which tells the contents of all files; and whether code among them may run."""
        return f"{self.snapshot.commit}{'+code' if self.runs_code() else ''}"

    def pinned(self, spec: str) -> str:
        """The name with the commit, so that no stage finds a newer one."""
        return f"{self.snapshot.repository}@{self.snapshot.commit}"

    def notes(self) -> list[str]:
        """The commit, and what is to be said of its files."""
        return [f"commit {self.snapshot.commit} of {self.snapshot.repository} on the hub", *super().notes()]

    def to_make(self) -> str:
        """Whether weights are to be fetched."""
        left = {name: size for name, size in self.snapshot.missing.items() if not (self.path / name).is_file()}
        return f"fetching {self.name} from the hub, {sum(left.values()) / 1e6:,.0f} MB" if left else ""

    def make(self, progress: Callable[[str, int, int], None]) -> None:
        """Fetch the weights. huggingface_hub locks each file, so that two processes do not fetch it twice.

        Raises:
            ModelError: the hub does not give them.
        """
        if self.to_make():
            repository, commit = self.snapshot.repository, self.snapshot.commit
            _fetch(self.name, repository, commit, _WEIGHTS, lambda done, of: progress(f"fetch {self.name}", done, of))

    def load(self, auto_class: str, options: Mapping[str, Any]) -> tuple[Any, Any]:
        """The model and its tokenizer, fetched now where they are not there, as a teacher's student may not be."""
        self.make(lambda what, done, of: None)
        return super().load(auto_class, options)


def find(name: str) -> Snapshot:
    """What the hub calls `name`. If the cache does not have all of it, all but the weights is fetched.

    Raises:
        ModelError: neither the cache nor the hub gives it.
    """
    named = NAME.fullmatch(name)
    assert named is not None, name
    repository, revision = named["repository"], named["revision"]
    folder = _cached(repository, revision)
    if folder is not None and _whole(folder):
        return Snapshot(repository, folder.name, folder)
    if hub.offline():
        raise ModelError(
            f"{name}: HF_HUB_OFFLINE is set, and the cache does not have the whole model; unset it, or {_elsewhere(repository)}"
        )
    folder = _fetch(name, repository, revision, SMALL)
    if _whole(folder):
        return Snapshot(repository, folder.name, folder)
    sizes = _listed(name, repository, folder.name)
    weights = {file: size for file, size in sizes.items() if any(Path(file).match(each) for each in _WEIGHTS)}
    if not weights and any(file.endswith((".bin", ".h5", ".msgpack", ".gguf", ".pt", ".pth")) for file in sizes):
        raise ModelError(
            f"{name}: its weights are not there as safetensors, and other files of a hub may run code when they are read; take "
            "another model or revision, or, if you trust it, save it with save_pretrained in a folder and name that"
        )
    return Snapshot(repository, folder.name, folder, weights)


def _cached(repository: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for file in ("config.json", adapter.CONFIG):
        found = try_to_load_from_cache(repository, file, revision=revision)
        if isinstance(found, str):
            return Path(found).parent
    return None


def _whole(folder: Path) -> bool:
    return adapter.alone(folder) or not Directory(folder).problems()


def _fetch(
    name: str,
    repository: str,
    revision: str | None,
    files: tuple[str, ...],
    told: Callable[[int, int], None] = lambda done, of: None,
) -> Path:
    """Fetch those of the repository's `files` that are not in the cache, and give the folder of the snapshot."""
    from huggingface_hub import snapshot_download
    from tqdm.auto import tqdm

    class Told(tqdm):  # type: ignore[misc, unused-ignore]
        """huggingface_hub's bars: none is drawn, and those of bytes are told."""

        monitor_interval = 0  # no thread looks after them

        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **{**named, "file": io.StringIO()})

        def update(self, n: float | None = 1) -> Any:
            """Count, and tell."""
            drawn = super().update(n)
            if self.unit == "B":
                told(int(self.n), int(self.total or 0))
            return drawn

    with hub.asked(), _said(name, repository, revision):
        found = snapshot_download(repository, revision=revision, allow_patterns=list(files), tqdm_class=Told)
    return Path(found)


def _listed(name: str, repository: str, commit: str) -> dict[str, int]:
    """The files at the top of the repository, with their bytes."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    with hub.asked(), _said(name, repository, commit):
        return {
            each.path: each.size
            for each in HfApi().list_repo_tree(repository, revision=commit)
            if isinstance(each, RepoFile)
        }


@contextlib.contextmanager
def _said(name: str, repository: str, revision: str | None) -> Iterator[None]:
    """The hub's refusals, and that it does not answer, in a sentence each, with the mend."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{repository}"
    try:
        yield
    except errors.GatedRepoError:
        why = f"it is gated: ask for access at {page}, and log in with `hf auth login` as who has it"
    except errors.RevisionNotFoundError:
        why = f"{repository} has no branch, tag or commit `{revision}`; {page}/tree/main lists them"
    except errors.RepositoryNotFoundError:
        why = f"the hub has no such repository, or it is private: look at {page}, log in with `hf auth login`, or {_folder(repository)}"
    except Exception as error:
        if disk.full(error):
            raise
        if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
            why = f"the hub does not give it to this account: ask for access at {page}, and log in with `hf auth login`"
        else:
            said = first_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
            why = f"the cache does not have the whole model, and the hub does not answer ({said}); {_elsewhere(repository)}"
    else:
        return
    raise ModelError(f"{name}: {why}")


def _elsewhere(repository: str) -> str:
    return f"fetch it where there is a network, with `hf download {repository}`, or {_folder(repository)}"


def _folder(repository: str) -> str:
    return f'name a folder that holds it, as in model = "./{repository.partition("/")[2]}"'
