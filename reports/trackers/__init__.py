"""Results for trackers of experiments: each cell of a suite is a run there, made from the records, never from the loop.

A tracker is a file of this package that is named as the tracker is, and has a class ``Tracker`` (:mod:`reports.trackers.base`).
"""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from bench.machine.machine import MachineError
from bench.recipe.errors import nearest
from reports.trackers.base import Tracker

PACKAGES = {
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
    "tensorboard": ("tensorboard",),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}
"""Each tracker, and the packages that it needs; the extra that installs them has the tracker's name."""


def check(names: Collection[str]) -> None:
    """See to it that all of `names` are trackers whose packages are installed.

    Raises:
        MachineError: one is not. It says what there is, or how to install it.
    """
    for name in names:
        if name not in PACKAGES:
            raise MachineError(
                f"unknown tracker `{name}`{nearest(name, PACKAGES)}; there are: {', '.join(sorted(PACKAGES))}"
            )
        if missing := [package for package in PACKAGES[name] if find_spec(package) is None]:
            raise MachineError(f'the tracker {name} needs the package {missing[0]}; pip install "methodbench[{name}]"')


def tracker(name: str, folder: Path) -> Tracker:
    """The tracker called `name`, for the results in `folder`."""
    found: Tracker = import_module(f"reports.trackers.{name}").Tracker(folder.resolve())
    return found
