"""A planted mistake: a small text replacement in one source file, and the import that makes it.

Nothing of ours is imported here, so that all of it can be imported afterwards, with the mistake inside.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, eq=False)
class Mutant:
    """A mistake as a careless edit or a new version of a library could bring: in `file`, `new` stands for `old`.

    `recipe` shows it, on the tiny `model`; `keys` go to :func:`bench.testing.jobs.job`, where ``{"task": "prose"}`` is language
    modelling. `tests` are test files that look at it besides the method's own. `why` says in a few words what the
    mistake is.
    """

    method: str
    file: str
    old: str
    new: str
    recipe: str
    why: str
    model: str = "bert"
    keys: Mapping[str, Any] = field(default_factory=dict)
    tests: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.method}: {self.why}"

    def planted(self) -> str:
        """The source with the mistake.

        Raises:
            ValueError: `old` does not stand in the file exactly once.
        """
        source = (ROOT / self.file).read_text(encoding="utf-8")
        if (count := source.count(self.old)) != 1:
            raise ValueError(f"{self.file}: found {count} times, once is wanted: {self.old!r}; mend `old` of “{self}”")
        return source.replace(self.old, self.new)

    @property
    def module(self) -> str:
        """The name under which the file is imported."""
        return ".".join(Path(self.file).with_suffix("").parts).removesuffix(".__init__")


class Planting:
    """Finds the mutant's module before any other finder does, and gives it the mutant's source."""

    def __init__(self, mutant: Mutant) -> None:
        self.name, self.source = mutant.module, mutant.planted()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Of the mutant's module alone."""
        if name != self.name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _Loader(name, spec.origin)
        spec.loader.source = self.source
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    source: str

    def get_code(self, fullname: str) -> CodeType:
        """From the mutant's source, past what is compiled already."""
        code: CodeType = self.source_to_code(self.source, self.path)
        return code


def plant(mutant: Mutant) -> None:
    """Have this process import the mutant's source; nothing of ours is imported yet but this module and the tests'."""
    early = [name for name in sys.modules if name.partition(".")[0] in ("bench", "methods", "reports")]
    assert not early, f"imported too early: {early}"
    sys.meta_path.insert(0, Planting(mutant))


def families() -> dict[str, list[Mutant]]:
    """All mutants, by the family that they are declared in."""
    from tests.mutants import families

    names = [module.name for module in pkgutil.iter_modules(families.__path__)]
    return {name: importlib.import_module(f"{families.__name__}.{name}").MUTANTS for name in names}
