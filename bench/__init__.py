"""methodbench: which training or compression method to use, in numbers that can be trusted.

For Python: :func:`parse` and :class:`Recipe` for recipes, :func:`read_records` for results as a pandas table.
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
    from bench.recipe.errors import RecipeError
    from bench.recipe.recipe import Recipe, parse
    from bench.record.frame import frame as read_records
else:
    # Every worker and command imports this package first: nothing is loaded until it is asked for.
    _WHERE = {
        "parse": ("bench.recipe.recipe", "parse"),
        "Recipe": ("bench.recipe.recipe", "Recipe"),
        "RecipeError": ("bench.recipe.method", "RecipeError"),
        "read_records": ("bench.record.frame", "frame"),
    }

    def __getattr__(name):
        if name not in _WHERE:
            raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
        import importlib

        module, attribute = _WHERE[name]
        return getattr(importlib.import_module(module), attribute)

    def __dir__():
        return sorted({*globals(), *_WHERE})


__all__ = ["Recipe", "RecipeError", "parse", "read_records"]
