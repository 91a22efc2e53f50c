"""A verdict as JUnit XML, which every CI system shows: a suite for each recipe, a case for each of its metrics."""

from __future__ import annotations

import io

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from bench.gate.verdict import Check, Verdict
from bench.metrics.units import show
from reports.gate import words


def xml(verdict: Verdict) -> str:
    """The whole file.

    A regression is a failure, and what cannot be told is an error, so that it is not green. A gate that is inconclusive
    without such a case, since it checked nothing, has one that says so.
    """
    recipes: dict[str, list[TestCase]] = {}
    for check in verdict.checks:
        recipes.setdefault(check.recipe, []).append(_case(verdict, check))
    ends = {words.outcome(verdict, check) for check in verdict.checks}
    if verdict.outcome == "inconclusive" and "inconclusive" not in ends:
        case = TestCase("verdict", words.printable(verdict.suite))
        case.result = [Error(_text(words.headline(verdict)), "inconclusive")]
        recipes["the gate"] = [*recipes.get("the gate", []), case]
    whole = JUnitXml(words.printable(verdict.suite))
    for recipe, cases in recipes.items():
        suite = TestSuite(words.escaped(recipe))
        suite.timestamp = verdict.started
        for side in (verdict.base, verdict.head):
            for what, value in words.side(side):
                suite.add_property(f"{side.name}.{what}", value)
        suite.extend(cases)
        whole.append(suite)  # add_testsuite compares each with all before it
    whole.update_statistics()
    whole.time = round(verdict.seconds, 3)
    out = io.BytesIO()
    whole.write(out)
    return out.getvalue().decode()


def _case(verdict: Verdict, check: Check) -> TestCase:
    case = TestCase(words.escaped(check.metric), words.escaped(check.recipe), 0)
    ended = words.outcome(verdict, check)
    kinds = {"regression": Failure, "inconclusive": Error, "skipped": Skipped}
    if ended in kinds:
        result = kinds[ended](_text(words.sentence(verdict, check)), ended)
        result.text = "\n".join(map(words.escaped, _details(verdict, check)))
        case.result = [result]
    return case


def _details(verdict: Verdict, check: Check) -> list[str]:
    lines = [
        f"base: {show(check.base, check.unit)}",
        f"head: {show(check.head, check.unit)}",
        f"change: {words.found_by(check) or '–'}",
        f"allowed: {words.printable(check.allowed)}",
        f"smallest detectable change: {words.smallest(check)}",
    ]
    if check.p_value is not None and check.level is not None:
        lines.append(f"p-value against the margin of {verdict.margin}: {check.p_value:.2g}, at most {check.level:.2g}")
    if check.pairs:
        lines.append(f"pairs: {check.pairs}, {check.clock or 'no'} clock")
    lines += [text for text in (words.wall(check), words.reason(verdict, check)) if text]
    lines += [f"grew: {name}, {base} to {head} ({more})" for name, base, head, more in words.grown(check)]
    return lines


def _text(sentence: str) -> str:
    return sentence.replace("`", "")
