"""methodbench: which training or compression method to use, in numbers that can be trusted.

What users of Python import is here, and ``docs/python.md`` shows it: :func:`run` runs a suite, :func:`compare` and
:func:`read_records` read what it recorded, :func:`pick` chooses from it, :func:`parse`, :class:`Recipe` and ``methods`` make recipes. What a package
with methods, tasks or models of its own imports is in :mod:`bench.api`. All else is private.
"""

from __future__ import annotations

import os
import signal
import sys

if (
    sys.argv[:1]
    and sys.argv[0].endswith("methodbench")
    and signal.getsignal(signal.SIGINT) == signal.default_int_handler
):
    # Ctrl-C while the command's modules are imported: as soon as can be, and without a traceback.
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.compare.compare import of_folder as compare
    from bench.compare.pick import pick_of as pick
    from bench.execute.run import Result
    from bench.execute.suites import run
    from bench.machine.disk import Full as DiskFull
    from bench.machine.machine import MachineError
    from bench.recipe.errors import RecipeError
    from bench.recipe.recipe import Recipe, parse
    from bench.recipe.registry import RegistryError
    from bench.recipe.registry import by_attribute as methods
    from bench.record.errors import RecordError
    from bench.record.frame import frame as read_records
    from bench.suite.suite import Suite, SuiteError
else:
    # Every worker and command imports this package first: nothing is loaded until it is asked for.
    _WHERE = {
        "DiskFull": ("bench.machine.disk", "Full"),
        "MachineError": ("bench.machine.machine", "MachineError"),
        "Recipe": ("bench.recipe.recipe", "Recipe"),
        "RecipeError": ("bench.recipe.errors", "RecipeError"),
        "RecordError": ("bench.record.errors", "RecordError"),
        "RegistryError": ("bench.recipe.registry", "RegistryError"),
        "Result": ("bench.execute.run", "Result"),
        "Suite": ("bench.suite.suite", "Suite"),
        "SuiteError": ("bench.suite.suite", "SuiteError"),
        "compare": ("bench.compare", None),  # a room that can be called
        "methods": ("bench.recipe.registry", "by_attribute"),
        "parse": ("bench.recipe.recipe", "parse"),
        "pick": ("bench.compare.pick", "pick_of"),
        "read_records": ("bench.record.frame", "frame"),
        "run": ("bench.execute.suites", "run"),
    }

    def __getattr__(name):
        if name not in _WHERE:
            raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
        import importlib

        module, attribute = _WHERE[name]
        found = importlib.import_module(module)
        return found if attribute is None else getattr(found, attribute)

    def __dir__():
        return sorted({*globals(), *_WHERE})


__all__ = [
    "DiskFull",
    "MachineError",
    "Recipe",
    "RecipeError",
    "RecordError",
    "RegistryError",
    "Result",
    "Suite",
    "SuiteError",
    "compare",
    "methods",
    "parse",
    "pick",
    "read_records",
    "run",
]
