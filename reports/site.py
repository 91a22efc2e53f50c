"""A site of results folders: an index, each folder's report, histories and performance profiles. Files that any host serves."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from bench.compare.compare import Comparison
from bench.compare.profile import Profile, Subject, profiles
from bench.gate import stored
from bench.gate.history import Course, history
from bench.machine import disk
from bench.metrics.units import counted
from reports import sentences, words, write
from reports.rendering import rendered, static

_COURSES = 300
"""Rows of a history; of more, nobody reads the rest."""


@dataclass(frozen=True)
class Entry:
    """A comparison's line in the index. ``folder`` is where its report is, beside the index."""

    folder: str
    title: str
    model: str
    task: str
    machine: str
    started: str
    seeds: int
    recipes: int
    ok: int
    answer: str
    subject: Subject


class _Reader:
    """Takes from each comparison what the index says of it, so that no more than one need be held."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.entries: list[Entry] = []

    def add(self, comparison: Comparison) -> str:
        """No text."""
        self.entries.append(
            Entry(
                self._folder, comparison.title, comparison.model, comparison.task, words.machine(comparison.environment),
                comparison.started, len(comparison.seeds), len(comparison.rows), sum(row.ok for row in comparison.rows),
                sentences.headline(comparison)[0], Subject.of(comparison),
            )
        )  # fmt: skip
        return ""

    def end(self) -> str:
        """No text."""
        return ""


def build(folders: Sequence[str | PathLike[str]], out: str | PathLike[str]) -> list[Path]:
    """Write the site of `folders` into `out`, and say which files: the index first.

    Raises:
        RecordError: a folder has no records; nothing is written then.
    """
    paths = list(dict.fromkeys(map(Path, folders)))
    every = [stored.recorded(path) for path in paths]
    target = Path(out)
    target.mkdir(parents=True, exist_ok=True)
    entries: list[Entry] = []
    written: list[Path] = []
    of_title: dict[str, list[Path]] = {}
    for path, slug, records in zip(paths, _slugs(paths), every, strict=True):
        reader = _Reader(slug)
        written += write(records, ["html"], target / slug, reader)
        entries += reader.entries
        for title in dict.fromkeys(entry.title for entry in reader.entries):
            of_title.setdefault(title, []).append(path)
    (target / ".nojekyll").touch()
    index = target / "index.html"
    with disk.atomic(index) as half:
        half.write_text(_index(entries, of_title), encoding="utf-8", errors="replace", newline="\n")
    return [index, *written]


def _index(entries: Sequence[Entry], of_title: Mapping[str, Sequence[Path]]) -> str:
    newest = sorted(entries, key=lambda entry: entry.started, reverse=True)
    suites: dict[str, list[Entry]] = {}
    for entry in newest:
        suites.setdefault(entry.title, []).append(entry)
    kinds = (("suite", "title"), ("model", "model"), ("task", "task"), ("machine", "machine"))
    return rendered(
        "site.html.j2",
        suites=suites,
        counts=", ".join(counted(len({getattr(entry, key) for entry in entries}), noun) for noun, key in kinds),
        histories={title: _courses(paths) for title, paths in of_title.items() if len(paths) > 1},
        profiles=[_drawn(each) for each in profiles(entry.subject for entry in entries)],
    )


def _courses(folders: Sequence[Path]) -> dict[str, Any]:
    from reports import courses

    found = history(folders)
    shown: Iterable[Course] = itertools.islice(found.courses, _COURSES)
    return {
        "folders": len(folders),
        "rows": [(each.recipe, each.title, *courses.ends(each), courses.bars(each)) for each in shown],
        "hidden": max(0, len(found.courses) - _COURSES),
        "changes": [courses.change(each, change) for each in found.courses for change in each.changes],
    }


def _drawn(profile: Profile) -> dict[str, Any]:
    from reports.profiles import best, drawing

    figure = drawing(profile)
    shares = [
        (name, *(f"{profile.share(name, within):.0%}" for within in (1.0, 1.5, 2.0, 1e300))) for name in best(profile)
    ]
    return {
        "title": figure.title,
        "caption": figure.caption,
        "svg": static(figure, f"profile-{profile.metric.name}"),
        "tasks": profile.tasks,
        "shares": shares,
    }


def _slugs(paths: Sequence[Path]) -> Iterator[str]:
    """A name for each folder's report, like the folder's own."""
    taken: set[str] = set()
    for path in paths:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().name).strip(".-")[:80] or "results"
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        taken.add(slug := next(each for each in names if each not in taken))
        yield slug
