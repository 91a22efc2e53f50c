"""What a stage's process imports before it measures anything, and how much of that the fork server holds for all.

A figure must not depend on what else is in a suite. Imports take some 200 MB, so each process has done all that its own
recipe and model need before its baseline is taken; what the server holds already takes no time.

Children of a process that has asked CUDA for its devices cannot use CUDA. So where stages run on a GPU, the server holds
only what does not ask, and each process imports the rest itself: bitsandbytes, peft and torchao ask while they are
imported, and transformers' models import torchao.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from bench.plan.plan import needs
from bench.recipe.recipe import Stage

ALWAYS = (
    "torch._dynamo",
    "torch._inductor.decomposition",
    "torch.distributed.fsdp",
    "torch.distributed.pipelining",
    "scipy.optimize",
    "accelerate",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "bench.stage.stage",
    "bench.stage.serve",
)
"""What every process holds: mostly what transformers' models and torchao import. Nothing here asks CUDA."""


@dataclass(frozen=True)
class Imports:
    """What some recipes and models need on ``device``: packages, by import name, and transformers' model types."""

    packages: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()
    device: str = "cpu"

    def hold(self) -> None:
        """In the fork server: import what it may hold. What cannot be imported fails in the job that needs it."""
        with _quiet():
            if self.device == "cuda":
                _attempt(*ALWAYS)
                _classes(self.model_types, "TOKENIZER_MAPPING")
            else:
                self._base()
                _attempt(*self.packages)

    def all(self) -> None:
        """In a job's process: import all.

        Raises:
            Exception: whatever a package says that cannot be imported.
        """
        with _quiet():
            self._base()
            for name in self.packages:
                importlib.import_module(name)

    def _base(self) -> None:
        _attempt(*ALWAYS, "transformers.modeling_utils")
        _classes(self.model_types, "TOKENIZER_MAPPING", "MODEL_MAPPING")

    def spell(self) -> str:
        """As text, for the server's environment."""
        return json.dumps(asdict(self))


NOTHING = Imports()


def of(stages: Iterable[Stage], model_types: Iterable[str], device: str, others: Iterable[str] = ()) -> Imports:
    """What `stages` and models of `model_types` need on `device`, "cpu" or "cuda", with `others`: packages that models need."""
    packages = {name for stage in stages for method in stage.methods for name in needs(method)}
    return Imports(tuple(sorted(packages.union(others))), tuple(sorted(set(model_types))), device)


def read(text: str) -> Imports:
    """What :meth:`Imports.spell` wrote."""
    found = json.loads(text)
    return Imports(tuple(found["packages"]), tuple(found["model_types"]), found["device"])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Libraries warn of each other while they are imported, which concerns nobody here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _attempt(*modules: str) -> None:
    for name in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _classes(model_types: Iterable[str], *mappings: str) -> None:
    """Import the classes that transformers' `mappings` have for these types; types that it does not know have none."""
    import transformers

    for model_type in model_types:
        with contextlib.suppress(Exception):
            config = transformers.CONFIG_MAPPING[model_type]
            for mapping in mappings:
                with contextlib.suppress(KeyError):
                    getattr(transformers, mapping)[config]
