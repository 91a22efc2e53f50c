"""From records to an answer. The room is called like the function that users call: ``bench.compare(folder)``."""

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.compare.compare import Comparison


class _Room(ModuleType):
    # Whatever imports a module of this room first makes `bench.compare` the room: so it can be called.
    def __call__(self, folder: str | os.PathLike[str]) -> "list[Comparison]":
        from bench.compare.compare import of_folder

        return of_folder(folder)


sys.modules[__name__].__class__ = _Room
