"""Imported once by the fork server; every job starts with these modules there. No CUDA, no threads."""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path

sys.path[:] = json.loads(os.environ.get("METHODBENCH_PATH", "null")) or sys.path

with Path(os.devnull).open("w") as nothing:
    # What libraries say while they are imported (of kernels they could fetch, say) is not the user's concern.
    kept = os.dup(2)
    os.dup2(nothing.fileno(), 2)
    try:
        import torch  # noqa: F401

        from bench.execute import imports
        from bench.recipe import registry

        list(registry.methods())  # all of them, which takes importing them
        from bench.models.registry import models
        from bench.tasks.registry import tasks

        tasks()
        models()
        text = os.environ.get("METHODBENCH_IMPORTS")
        (imports.read(text) if text else imports.Imports()).hold()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        # The modules' many objects are here to stay: no child has to look through them for garbage.
        gc.collect()
        gc.freeze()
