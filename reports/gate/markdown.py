"""A verdict as GitHub's Markdown, for the summary of a step and the comment on a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bench.gate.verdict import Check, Ended, Verdict
from bench.metrics.units import show
from reports.gate import words
from reports.markdown import plain, sentence, table

SUMMARY = 2**20
"""Bytes that GitHub shows of the summary of a step; it refuses a larger one.

Source: https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands.
"""

COMMENT = 65_000
"""Bytes of a comment: GitHub takes 65,536 characters, and a line that marks the comment has room beside these."""

_TITLES: dict[Ended, str] = {
    "regression": "Regressions",
    "inconclusive": "Cannot be told",
    "pass": "Passed",
    "skipped": "Skipped",
}

_HEADS = ["recipe", "metric", "base", "head", "change", "allowed", "smallest detectable", "why"]


def page(verdict: Verdict, most: int = SUMMARY) -> str:
    """All of it in at most `most` bytes: checks that there is no room for are counted, the least important ones first.

    Empty where there is no room for the headline and what was compared either.
    """
    begin = "\n\n".join([f"## {sentence(words.headline(verdict))}", *_doubts(verdict)])
    end = "\n\n".join([*_notes(verdict), _sides(verdict)])
    room = most - _size(begin) - _size(end) - 1_000  # headings, and the line that says what is left out
    if room < 0:
        return ""
    parts, left_out = [], 0
    grown = "\n\n".join(_where(verdict))
    grown = grown if _size(grown) < room / 2 else ""
    room -= _size(grown)
    for ended in words.ORDER:
        checks = [check for check in words.ordered(verdict) if words.outcome(verdict, check) == ended]
        lines: list[str] = []
        for line in _rows(verdict, checks):
            room -= _size(line) + 1
            if room < 0:
                break
            lines.append(line)
        left_out += len(checks) - len(lines)
        if lines:
            parts.append(_section(ended, "\n".join([table(_HEADS, []), *lines]), len(checks)))
        if ended == "regression":
            parts.append(grown)
    if left_out:
        parts.append(f"{words.count(left_out, 'more check')} left out here; `gate.json` has all.")
    return "\n\n".join(part for part in [begin, *parts, end] if part) + "\n"


def _size(text: str) -> int:
    return len(text.encode())


def _section(ended: Ended, rows: str, number: int) -> str:
    title = f"{_TITLES[ended]}: {number:,}"
    if ended in ("regression", "inconclusive"):
        return f"### {title}\n\n{rows}"
    return f"<details><summary>{title}</summary>\n\n{rows}\n\n</details>"


def _rows(verdict: Verdict, checks: Iterable[Check]) -> Iterator[str]:
    for check in checks:
        cells = [
            words.printable(check.recipe),
            words.printable(check.title),
            show(check.base, check.unit),
            show(check.head, check.unit),
            "; ".join(part for part in (words.found_by(check), words.wall(check)) if part) or "–",
            words.printable(check.allowed),
            words.smallest(check),
            words.reason(verdict, check),
        ]
        yield table(cells, []).splitlines()[0]


def _where(verdict: Verdict) -> Iterator[str]:
    for check in words.alarms(verdict):
        yield f"**Where the time went:** {sentence(words.name(check.recipe))}, {plain(words.title(check))}"
        yield table(["operator or phase", "base", "head", "grew by"], words.grown(check))


def _doubts(verdict: Verdict) -> list[str]:
    doubts = words.listed(verdict.doubts)
    return ["\n".join(f"> ⚠ {sentence(doubt)}  " for doubt in doubts)] if doubts else []


def _notes(verdict: Verdict) -> list[str]:
    notes = words.listed(verdict.notes)
    return ["\n".join(f"- {sentence(note)}" for note in notes)] if notes else []


def _sides(verdict: Verdict) -> str:
    base, head = dict(words.side(verdict.base)), dict(words.side(verdict.head))
    rows = [[what, base.get(what, "–"), head.get(what, "–")] for what in list({**base, **head})[:20]]
    about = (
        f"Suite {plain(words.printable(verdict.suite))}; {plain(verdict.started)}; {verdict.seconds / 60:.1f} minutes; "
        f"at most {100 * verdict.alpha:g} % false alarms; a slowdown up to {plain(verdict.margin)} does not matter."
    )
    return f"{table(['', 'base', 'head'], rows)}\n\n*{about}*"
