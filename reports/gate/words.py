"""The facts of a verdict as plain sentences, the same in every format. Names stand in backticks."""

from __future__ import annotations

from collections.abc import Sequence

from bench.gate.verdict import Check, Ended, Side, Verdict
from bench.metrics.units import show

ORDER: tuple[Ended, ...] = ("regression", "inconclusive", "pass", "skipped")
"""From what a reader must know first."""

_LONGEST = 200
_ALARMS = 5
"""Beyond, the operators of one more say little that the first did not."""


def escaped(text: str) -> str:
    """`text` in one line: what cannot be printed is shown by its escape, such as ``\\n``."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def printable(text: str) -> str:
    """`text` for a reader: escaped, and at most 200 characters of it."""
    text = escaped(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def outcome(verdict: Verdict, check: Check) -> Ended:
    """How `check` ended, as the whole gate has it: with a doubt, no pass can be trusted."""
    return "inconclusive" if check.outcome == "pass" and verdict.doubts else check.outcome


def ordered(verdict: Verdict) -> list[Check]:
    """The checks, by :data:`ORDER`."""
    return sorted(verdict.checks, key=lambda check: ORDER.index(outcome(verdict, check)))


def headline(verdict: Verdict) -> str:
    """What the verdict is, and why."""
    ends = [outcome(verdict, check) for check in verdict.checks]
    number = ends.count(verdict.outcome)
    if verdict.outcome == "pass":
        skipped = f"; {count(ends.count('skipped'), 'check')} skipped" if "skipped" in ends else ""
        return f"Pass: nothing became worse than is allowed, in {count(number, 'check')}{skipped}."
    if verdict.outcome == "regression":
        more = f" {number - 1} more of {count(len(ends), 'check')} regressed." if number > 1 else ""
        return f"Regression: {sentence(verdict, ordered(verdict)[0])}{more}"
    if verdict.doubts:
        return f"Inconclusive: {_clause(verdict.doubts[0])}."
    if not ends:
        return "Inconclusive: nothing was checked."
    more = f" {number - 1} more of {count(len(ends), 'check')} cannot be told." if number > 1 else ""
    return f"Inconclusive: {sentence(verdict, ordered(verdict)[0])}{more}"


def sentence(verdict: Verdict, check: Check) -> str:
    """What was found of `check`."""
    ended, found = outcome(verdict, check), found_by(check)
    what, why = f"{name(check.recipe)}: {title(check)}", reason(verdict, check)
    if ended == "skipped":
        return f"{what} was skipped{': ' if why else ''}{why}."
    if ended == "inconclusive":
        figures = [
            *([f"measured: {found}"] if found else []),
            *([f"smallest detectable: {smallest(check)}"] if check.smallest is not None else []),
            f"allowed: {printable(check.allowed)}",
        ]
        return f"{what} cannot be told{': ' if why else ''}{why} ({'; '.join(figures)})."
    return f"{name(check.recipe)} is {found} in {title(check)}; {printable(check.allowed)} is allowed."


def reason(verdict: Verdict, check: Check) -> str:
    """Why it ended so, where that is not in its numbers; without a full stop."""
    if check.reason or check.outcome != "pass":
        return _clause(check.reason)
    return _clause(verdict.doubts[0]) if verdict.doubts else ""


def found_by(check: Check) -> str:
    """The change with its interval: ``5.1 % slower (4.3 to 5.9 %)``; empty where none is known."""
    return f"{change(check)} ({between(check)})" if between(check) else change(check)


def change(check: Check) -> str:
    """How much worse or better the head is: ``5.1 % slower``, ``the same``; empty where that is not known."""
    if not check.change:
        return "" if check.change is None else "the same"
    worse, better = _directions(check)
    return f"{_amount(abs(check.change), check)} {worse if check.change > 0 else better}"


def between(check: Check) -> str:
    """The interval of the change, in the direction that :func:`change` names; empty where there is none."""
    if check.interval is None or check.change is None or check.interval[0] == check.interval[1]:
        return ""
    low, high = check.interval if check.change >= 0 else (-check.interval[1], -check.interval[0])
    first, last = _amount(low, check), _amount(high, check)
    unit = last.partition(" ")[2]
    return f"{first.removesuffix(f' {unit}') if unit else first} to {last}"


def smallest(check: Check) -> str:
    """The smallest detectable change; "–" where it is not known."""
    return "–" if check.smallest is None else _amount(check.smallest, check)


def wall(check: Check) -> str:
    """What the wall clock says, where another one decided: ``by wall time 4.0 % slower``; empty where it says nothing."""
    if check.wall_change is None:
        return ""
    worse, better = _directions(check)
    return f"by wall time {_amount(abs(check.wall_change), check)} {worse if check.wall_change > 0 else better}"


def alarms(verdict: Verdict) -> list[Check]:
    """The first of the checks that say where their time went."""
    return [check for check in ordered(verdict) if check.grown][:_ALARMS]


def grown(check: Check) -> list[tuple[str, str, str, str]]:
    """The operators and phases whose time grew: name, time in the base, in the head, and the difference."""
    return [
        (printable(each.name), show(each.base, "s"), show(each.head, "s"), f"+{show(each.head - each.base, 's')}")
        for each in check.grown
    ]


def side(side: Side) -> list[tuple[str, str]]:
    """What one side was: label, commit, Python, and the file of each package under test."""
    about = [("revision", side.label), ("commit", side.commit), ("python", side.python)]
    about += [(f"module {name}", file) for name, file in sorted(side.modules.items())]
    return [(printable(what), printable(value)) for what, value in about if value]


def name(text: str) -> str:
    """A name in backticks."""
    return "`" + printable(text).replace("`", "'") + "`"


def title(check: Check) -> str:
    """The metric's title within a sentence."""
    text = printable(check.title).replace("`", "'")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def count(number: int, noun: str) -> str:
    """``1 check``, ``5,000 checks``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(texts: Sequence[str], most: int = 20) -> list[str]:
    """`texts` for a reader: each in one line, and of very many the first."""
    more = [f"{len(texts) - most:,} more are in gate.json"] if len(texts) > most else []
    return [*map(printable, texts[:most]), *more]


def _clause(text: str) -> str:
    return printable(text).replace("`", "'").rstrip(". ")


def _directions(check: Check) -> tuple[str, str]:
    if check.how != "items" and (check.unit == "s" or check.unit.endswith("/s")):
        return "slower", "faster"
    return ("larger", "smaller") if check.how != "items" and check.better == "lower" else ("worse", "better")


def _amount(value: float, check: Check) -> str:
    """An amount of change, as its scale has it: in %, in points, or in the unit."""
    if check.scale == "ratio" or check.unit == "fraction":
        number = f"{abs(100 * value):,.{1 if abs(value) >= 0.01 else 2}f}"
        text = f"{number} {'%' if check.scale == 'ratio' else 'points'}"
    else:
        text = show(abs(value), check.unit)
    return f"−{text}" if value < 0 else text
