"""A verdict for readers and for CI systems, one file a format."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from bench.gate.verdict import Verdict
from bench.machine import disk
from reports.gate import bencher, benchmark_action, github, junit, markdown, pyperf_files


def write(verdict: Verdict, folder: Path) -> list[Path]:
    """Write `verdict` into `folder` in every format, and say where.

    ``gate.md`` fits into a comment on a pull request. A format that has nothing to say, as pyperf's where nothing was
    timed, has no file, and one of an earlier verdict is removed. A reader sees all of a file or none.

    Raises:
        OSError: a file cannot be written.
    """
    texts = {
        "gate.md": markdown.page(verdict, markdown.COMMENT),
        "junit.xml": junit.xml(verdict),
        "benchmark-smaller.json": benchmark_action.entries(verdict, "lower"),
        "benchmark-bigger.json": benchmark_action.entries(verdict, "higher"),
        "bencher.json": bencher.metrics(verdict),
        "pyperf-base.json": pyperf_files.suite(verdict, "base"),
        "pyperf-head.json": pyperf_files.suite(verdict, "head"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        if not text:
            (folder / name).unlink(missing_ok=True)
            continue
        with disk.atomic(folder / name) as half:
            half.write_text(text, encoding="utf-8", newline="")
    return [folder / name for name, text in texts.items() if text]


def on_github(verdict: Verdict, environment: Mapping[str, str]) -> None:
    """In a step of a GitHub workflow, print the annotations and append the summary; elsewhere, nothing.

    A summary that cannot be written is a warning: it changes no verdict.
    """
    if environment.get("GITHUB_ACTIONS") != "true":
        return
    found = github.commands(verdict)
    if name := environment.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(name).open("a", encoding="utf-8", newline="") as file:
                # GitHub refuses all that a step wrote where it is too much together.
                file.write(markdown.page(verdict, markdown.SUMMARY - file.tell()))
        except OSError as error:
            found.append(f"::warning title=methodbench::the summary was not written, {error.strerror}")
    sys.stdout.write("".join(f"{line}\n" for line in found))
