"""Other people's packages, for testing what they register."""

import contextlib
import sys
from pathlib import Path

import pytest

from bench.metrics import registry as metrics
from bench.models import registry as models
from bench.recipe import registry as methods
from bench.tasks import registry as tasks

READ_ONCE = (methods.methods, tasks.tasks, tasks.kinds, models.models, metrics.metrics, metrics.series)


@contextlib.contextmanager
def installed(folder, entry_points):
    """Inside, the modules in `folder` are an installed package's, with these entry points by group and name."""
    info = folder / "others-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    lines = []
    for group, points in entry_points.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        _read_anew()
        yield
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").is_relative_to(folder):
            del sys.modules[name]
    _read_anew()


def _read_anew():
    for registered in READ_ONCE:
        registered.cache_clear()
