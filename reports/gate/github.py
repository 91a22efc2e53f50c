"""A verdict as annotations of a GitHub workflow: errors for regressions, warnings for what cannot be told."""

from __future__ import annotations

from bench.gate.verdict import Verdict
from reports.gate import words

MOST = 10
"""Annotations of a kind that GitHub shows of a step; it drops the rest without a word."""


def commands(verdict: Verdict) -> list[str]:
    """The workflow commands to print, one a line."""
    ended: dict[str, list[tuple[str, str]]] = {"regression": [], "inconclusive": []}
    for check in verdict.checks:
        if check.outcome in ended:
            title = f"{check.outcome.capitalize()}: {words.printable(check.recipe)}, {words.title(check)}"
            ended[check.outcome].append((title, words.sentence(verdict, check)))
    warnings = [("Doubt", words.printable(doubt)) for doubt in verdict.doubts] + ended["inconclusive"]
    if verdict.outcome == "inconclusive" and not warnings:
        warnings = [("Inconclusive", words.headline(verdict))]
    return [*_commands("error", ended["regression"]), *_commands("warning", warnings)]


def _commands(kind: str, found: list[tuple[str, str]]) -> list[str]:
    if len(found) > MOST:
        more = len(found) - MOST + 1
        found = [*found[: MOST - 1], ("More", f"{more:,} more are in the summary and in gate.json.")]
    return [f"::{kind} title={_property(title)}::{_data(text.replace('`', ''))}" for title, text in found]


def _data(text: str) -> str:
    """Source: https://github.com/actions/toolkit/blob/main/packages/core/src/command.ts."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
