"""``methodbench pick``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.say import say

if TYPE_CHECKING:
    from bench.compare.pick import Bound, Picked, Wanted
    from bench.compare.rows import Row

EXIT_STATUS = "Exit status: 0 there is such a recipe; 1 there is none; 2 the use was wrong."


def pick_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
    most: Annotated[
        list[str] | None,
        typer.Option("--max", metavar="METRIC=VALUE", help="At most so much, as peak_memory=8GiB or latency=20ms."),
    ] = None,
    least: Annotated[
        list[str] | None, typer.Option("--min", metavar="METRIC=VALUE", help="At least so much, as accuracy=0.7.")
    ] = None,
    by: Annotated[
        str, typer.Option("--by", metavar="METRIC", help="The best of this is picked. A metric's name, or a short one.")
    ] = "quality",
    as_json: Annotated[bool, typer.Option("--json", help="One object, with what was excluded and why.")] = False,
) -> None:
    """Pick the recipe that is best by one metric among those that keep to all bounds. Means over seeds decide; where an
    interval crosses a bound, it is said that it may not hold. Short names: throughput, latency, peak_memory (the larger of
    training's and inference's), size, flops and quality."""
    from bench.compare.pick import pick_of

    found = pick_of(folder, max=_values("--max", most or []), min=_values("--min", least or []), by=by)
    if as_json:
        print(json.dumps({"picks": [_object(each) for each in found]}, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        for number, each in enumerate(found):
            say("\n".join(["", *_lines(each)] if number else _lines(each)))
    if not found:
        say("Nothing is recorded here.", error=True)
    if not found or not all(each.row for each in found):
        raise typer.Exit(1)


def _values(option: str, texts: list[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (key and equals and value):
            raise typer.BadParameter(f"a metric, = and a value, as peak_memory=8GiB; found {text!r}", param_hint=option)
        if key in values:
            raise typer.BadParameter(f"{key} is given twice", param_hint=option)
        values[key] = value
    return values


def _lines(picked: Picked) -> list[str]:
    from bench.metrics.units import counted
    from reports import words

    number, where = len(picked.comparison.rows), words.place(picked.comparison)
    lines = [f"{picked.row.name if picked.row else 'No recipe'}  ({where})"]
    if picked.row:
        if picked.row.recipe != picked.row.name:
            lines.append(f"  {picked.row.recipe}")
        shown = [
            (figure.metric.title, _figure(picked, picked.row, each)) for each, figure in _figures(picked, picked.row)
        ]
        wide = max((len(title) for title, _ in shown), default=0)
        lines += [f"  {title:{wide}}  {text}" for title, text in shown]
    lines += [f"{bound} may not hold: {_why(bound, picked.row)}" for bound in picked.uncertain if picked.row]
    if picked.close:
        lines.append(f"Not clearly behind in {picked.by.key}: {_names(picked.close)}")
    excluded = sorted(picked.bounds, key=lambda bound: -len(picked.excluded(bound)))
    for bound in excluded:
        if rows := picked.excluded(bound):
            doubt = " (it may hold)" if bound.doubtful(rows[0]) else ""
            alone = " that keeps to all else" if len(picked.bounds) > 1 and picked.alone(bound, rows[0]) else ""
            near = f"the nearest{alone} is {rows[0].name} with {bound.wanted.figure(rows[0])}{doubt}"
            lines.append(f"{bound} excludes {len(rows)} of {counted(number, 'recipe')}; {near}")
    for each in picked.wanted:
        if rows := picked.unmeasured(each):
            lines.append(f"{each.key} was not measured of {_names(rows)}")
    if rows := picked.without_result:
        lines.append(
            f"No full result: {', '.join(f'{row.name} ({words.status(row)})' for row in rows[:8])}{_more(rows)}"
        )
    return lines


def _figures(picked: Picked, row: Row) -> list[tuple[Wanted, Any]]:
    """What was asked for and the quality, each with the recipe's figure."""
    from bench.compare.pick import Wanted

    primary = picked.comparison.primary
    wanted = [*picked.wanted, *([Wanted("quality", (primary,))] if primary else [])]
    found = {figure.metric.name: (each, figure) for each in wanted if (figure := each.figure(row))}
    return list(found.values())


def _figure(picked: Picked, row: Row, wanted: Wanted) -> str:
    from reports import words

    figure = wanted.figure(row)
    if figure is None:
        return "–"
    change = row.changes.get(figure.metric.name)
    beside = (
        f"; beside {picked.comparison.baseline}: {words.spelled(change)}, {words.verdict(change)}" if change else ""
    )
    return f"{figure}{beside or ('; it is the baseline' if row.is_baseline else '')}"


def _why(bound: Bound, row: Row) -> str:
    from bench.metrics.units import show

    figure = bound.wanted.figure(row)
    if figure is None or figure.interval is None:
        return "one seed gives no interval"
    return f"the interval is {' to '.join(show(end, figure.metric.unit) for end in figure.interval)}"


def _names(rows: list[Row]) -> str:
    return ", ".join(row.name for row in rows[:8]) + _more(rows)


def _more(rows: list[Row]) -> str:
    return f" and {len(rows) - 8} more" if len(rows) > 8 else ""


def _object(picked: Picked) -> dict[str, Any]:
    comparison, row = picked.comparison, picked.row
    return {
        "title": comparison.title,
        "model": comparison.model,
        "task": comparison.task,
        "baseline": comparison.baseline,
        "by": picked.by.key,
        "name": row and row.name,
        "recipe": row and row.recipe,
        "figures": {each[1].metric.name: _values_of(row, each[1]) for each in _figures(picked, row)} if row else {},
        "candidates": [each.name for each in picked.candidates],
        "not_clearly_behind": [each.name for each in picked.close],
        "bounds": [
            {
                "bound": bound.kind,
                "metric": bound.wanted.key,
                "limit": bound.limit,
                "may_not_hold": bound in picked.uncertain,
                "excluded": [
                    {"name": each.name, "value": figure.value, "may_hold": bound.doubtful(each)}
                    for each in picked.excluded(bound)
                    if (figure := bound.wanted.figure(each))
                ],
                "unmeasured": [each.name for each in picked.unmeasured(bound.wanted)],
            }
            for bound in picked.bounds
        ],
        "without_result": {each.name: each.status for each in picked.without_result},
    }


def _values_of(row: Row, figure: Any) -> dict[str, Any]:
    change = row.changes.get(figure.metric.name)
    return {
        "value": figure.value,
        "unit": figure.metric.unit,
        "interval": figure.interval and list(figure.interval),
        "change": change and change.value,
        "change_interval": change and change.interval and list(change.interval),
        "compared_by": change and change.kind,
        "verdict": change and change.verdict,
    }
