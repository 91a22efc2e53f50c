"""The two sides of a gate, from what the command line names: revisions, environments, or recipes."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.gate.gate import GateError, Tell
from bench.gate.pairs import SIDES, Target
from bench.gate.revision import build
from bench.machine import cache, hub
from bench.suite.gate import GateTable
from bench.suite.suite import load_gate, read_table, shipped

DEFAULT = {
    "throughput": "3%",
    "latency": "3%",
    "peak_memory": "16 MiB",
    "size": "1%",
    "quality": "1 point",
    "bits_per_byte": "0.01 bits",
}
"""What may become how much worse where no suite says it."""

Sides = tuple[Target, Target]


def suite_file(name: str) -> Path:
    """The file of a suite that is named by its path, or by the name of one that comes along."""
    path = Path(name)
    return path if path.exists() or name not in (found := shipped()) else found[name]


def table_of(suite: Path) -> GateTable:
    """A suite's ``[gate]``.

    Raises:
        SuiteError: the table is wrong. GateError: there is none.
    """
    found = load_gate(suite)
    if found is None:
        raise GateError(
            f'{suite}: it has no [gate] table, which says what may become how much worse; add one, as in\n\n[gate]\nthroughput = "3%"'
        )
    return found


def of_revisions(suite: Path, base: str, head: str, table: GateTable, out: Path, tell: Tell) -> Sides:
    """Two revisions of the repository that `suite` lies in, each built into an environment of its own.

    Raises:
        BuildError: one cannot be built. SuiteError: its suite is wrong.
    """
    built = [build(suite, revision, table.package, cache.folder() / "gate", tell) for revision in (base, head)]
    base_side, head_side = (
        Target(
            which, each.label, each.python, each.checkout, _folder(out, which), _environment(), read_table(each.suite),
            each.suite.parent, each.commit, each.packages,
        )
        for which, each in zip(SIDES, built, strict=True)
    )  # fmt: skip
    return base_side, head_side


def of_pythons(suite: Path, base: Path, head: Path, out: Path) -> Sides:
    """Two environments that are there, by their interpreters; both run the same suite.

    Raises:
        GateError: there is no such interpreter. SuiteError: the suite is wrong.
    """
    for option, python in (("--base-python", base), ("--head-python", head)):
        if not python.is_file() or not os.access(python, os.X_OK):
            raise GateError(
                f"{option} {python}: there is no such program; name an environment's interpreter, as env/bin/python"
            )
    # Who names environments wants what is installed in them.
    variables = {key: value for key, value in _environment().items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    base_side, head_side = (
        Target(which, str(python), python.absolute(), Path.cwd(), _folder(out, which), variables, read_table(suite), suite.parent.resolve())
        for which, python in zip(SIDES, (base, head), strict=True)
    )  # fmt: skip
    return base_side, head_side


def of_recipes(table: Mapping[str, Any], folder: Path, base: str, head: str, out: Path) -> Sides:
    """Two recipes in the running environment, on the model and data of the suite's `table`; names of its recipes will do."""
    recipes = table.get("recipes") or {}
    base_side, head_side = (
        Target(
            which, recipe, Path(sys.executable), Path.cwd(), _folder(out, which), _environment(),
            {**table, "recipes": {"recipe": recipes.get(recipe, recipe)}, "baseline": None}, folder.resolve(),
        )
        for which, recipe in zip(SIDES, (base, head), strict=True)
    )  # fmt: skip
    return base_side, head_side


def of_itself(suite: Path, out: Path) -> Sides:
    """The running environment, twice: what differs between the two is noise."""
    table = read_table(suite)
    base_side, head_side = (
        Target(which, "this environment", Path(sys.executable), Path.cwd(), _folder(out, which), _environment(), table, suite.parent.resolve())
        for which in SIDES
    )  # fmt: skip
    return base_side, head_side


def _folder(out: Path, which: str) -> Path:
    return out.resolve() / which


def _environment() -> dict[str, str]:
    """Variables of a side's processes. One thread, so that the CPU time of a process is that of its work."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **hub.for_stages(os.environ)}
