import importlib.util

import pytest

from bench.machine.machine import MachineError
from reports.trackers import PACKAGES, check


def test_a_tracker_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("reports.trackers.find_spec", lambda name: None)
    for name, packages in PACKAGES.items():
        with pytest.raises(MachineError) as error:
            check([name])
        assert (
            str(error.value) == f'the tracker {name} needs the package {packages[0]}; pip install "methodbench[{name}]"'
        )


def test_an_unknown_tracker_gets_the_nearest():
    with pytest.raises(MachineError, match=r"unknown tracker `wandbb`; did you mean `wandb`\?; there are: mlflow"):
        check(["wandbb"])


def test_every_tracker_has_its_file():
    for name in PACKAGES:
        assert importlib.util.find_spec(f"reports.trackers.{name}")
