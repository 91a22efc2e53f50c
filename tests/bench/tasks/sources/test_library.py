"""The tasks that are made of the standard library's sources, on the real one and on one that is made up."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from bench.tasks.base import TaskError
from bench.tasks.registry import open_task
from bench.tasks.sources.library import PACKAGES
from bench.tasks.sources.stdlib_identifiers import StdlibIdentifiers
from bench.tasks.sources.stdlib_masked import StdlibMasked
from bench.tasks.sources.stdlib_modules import StdlibModules
from bench.tasks.sources.stdlib_signatures import StdlibSignatures

NAMES = ["stdlib-identifiers", "stdlib-masked", "stdlib-modules", "stdlib-signatures"]

SOURCE = '''\
"""The module of the package {package}."""
import os.path as paths
from sys import argv, path as places

SIZE = 3

class Box:
    """A box that has a {package} in it. It has one method."""

    @property
    def width(self):
        """How wide the {package} is.

        In inches.
        """

        return self.inner.width * SIZE  # comment

    def put(self, thing, *others):
        """Put the thing into the {package} box."""
        for each in others:
            places.append(str(each)) or paths.join(each, sep=thing)
        try:
            box = Box(thing)
        except ValueError as error:
            raise Box from error
        return put(box)

def put(box, é=1):
    """Put something that is not of ASCII in {package}."""
    return box.thing.other(1, 2, 3)

def short():
    """Have a docstring and no more in {package}."""

def formatted(a, b):
    return f"{{a}}" + a + b + a + b
'''


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library made up for the test, with a cache of its own."""
    monkeypatch.setenv("METHODBENCH_CACHE", str(tmp_path / "cache"))
    for package in PACKAGES:
        file = tmp_path / "lib" / package / "__init__.py"
        file.parent.mkdir(parents=True)
        file.write_text(SOURCE.format(package=package), encoding="utf-8")
    return tmp_path / "lib"


@pytest.mark.parametrize("name", NAMES)
def test_the_real_library_is_read_once(name: str) -> None:
    task = open_task(name, Path())
    assert task.problems() == []
    counts = task.counts()
    assert counts["train"] > 600
    assert counts["test"] > 0.15 * counts["train"]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        again = open_task(name, Path())
        assert again.problems() == []
        assert (again.fingerprint(), again.counts()) == (task.fingerprint(), counts)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.2


def test_a_missing_package(library: Path) -> None:
    task = StdlibModules()
    task.root = library
    (library / "xml/__init__.py").unlink()
    (problem,) = task.problems()
    assert "has no sources of xml; use a Python with" in problem
    with pytest.raises(TaskError, match="xml"):
        task.fingerprint()


def test_identifiers(library: Path) -> None:
    task = StdlibIdentifiers()
    task.root = library
    (width, put), *others = zip(*[iter(task.read())] * 2, strict=True)
    assert len(others) == len(PACKAGES) - 1, "short functions, and those with f-strings or without ASCII, are left out"
    tokens = width.texts[0].split("\n")
    assert " ".join(tokens) == '@ property def width ( self ) : "" return self . inner . width * SIZE'
    assert " ".join(width.answer) == "O builtin O function O argument O O O O argument O attribute O attribute O global"
    expected = [
        (
            "def put ( self , thing , * others ) :",
            "O function O argument O argument O O argument O O",
        ),
        ('"" for each in others :', "O O local O argument O"),
        ("places . append ( str ( each ) ) or", "imported O attribute O builtin O local O O O"),
        ("paths . join ( each , sep = thing )", "module O attribute O local O keyword O argument O"),
        ("try : box = Box ( thing )", "O O local O class O argument O"),
        ("except ValueError as error : raise Box from error", "O builtin O local O O class O local"),
        ("return put ( box )", "O function O local O"),
    ]
    assert put.texts[0].split("\n") == " ".join(text for text, _ in expected).split()
    assert put.answer == " ".join(tags for _, tags in expected).split()


def test_signatures(library: Path) -> None:
    task = StdlibSignatures()
    task.root = library
    items = list(task.read())
    assert len(items) == 4 * len(PACKAGES)
    own = {
        "How wide": "def width(self)",
        "Put the ": "def put(self, thing, *others)",
        "Put some": "def put(box, é=1)",
        "Have a d": "def short()",
    }
    for item in items:
        text, signature = item.texts
        assert signature in own.values()
        assert (own[text[:8]] == signature) == (item.answer == "own")
    assert set(Counter(item.answer for item in items)) == {"own", "another's"}
    assert items == list(task.read())


def test_classes_of_signatures_are_balanced() -> None:
    counts = StdlibSignatures().counted
    assert min(counts.values()) > 0.45 * sum(counts.values())


def test_modules(library: Path) -> None:
    task = StdlibModules()
    task.root = library
    items = list(task.read())
    assert len(items) == 6 * len(PACKAGES)
    for item in items:
        text, choices = item.texts
        names = choices.split("\n")
        assert len(set(names)) == 4
        assert names[item.answer] in text
    assert items == list(task.read())
    assert len({item.answer for item in items}) == 4


def test_names_of_modules_do_not_tell_which_is_right() -> None:
    """To choose the module that is right most often in training is little better than to choose any."""
    task = StdlibModules()
    often = Counter(
        choices.split("\n")[place]
        for choices, place in zip(task.data.column("train", 1), task.data.answers("train"), strict=True)
    )
    hits = [
        max(range(4), key=lambda each: often[choices.split("\n")[each]]) == place
        for choices, place in zip(task.data.column("test", 1), task.data.answers("test"), strict=True)
    ]
    assert sum(hits) / len(hits) < 0.4


def test_masked(library: Path) -> None:
    task = StdlibMasked()
    task.root = library
    assert task.problems() == []
    assert {"perplexity", "masked_accuracy", "pair_accuracy"} == set(task.metrics)
    firsts = {text for split in ("train", "validation", "test") for text in task.data.column(split, 0)}  # type: ignore[arg-type]
    assert firsts == {
        text for package in PACKAGES for text in (f"A box that has a {package} in it.", f"How wide the {package} is.")
    }
    assert task.counts()["one_sentence"] == 4 * len(PACKAGES)
