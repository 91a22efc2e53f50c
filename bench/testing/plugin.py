"""The pytest plugin: models that train a step in milliseconds. Nothing heavy is imported until a test asks for one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a BERT of some 25,000 parameters, and a tokenizer of single characters."""
    from bench.testing import tiny

    return tiny.bert(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a Llama of some 25,000 parameters, and a tokenizer of bytes."""
    from bench.testing import tiny

    return tiny.llama(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture
def methodbench_gate() -> Callable[..., Any]:
    """Times two callables in turns, and fails the test if the second is slower: see :func:`bench.testing.turns.gate`."""
    from bench.testing import turns

    return turns.gate


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark that :func:`bench.testing.contract` puts on slow tests."""
    config.addinivalue_line("markers", "slow: takes more than a few seconds")
