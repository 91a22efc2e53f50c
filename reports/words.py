"""Words and pieces that several kinds of report share."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.compare.compare import Comparison, Comparisons
from bench.compare.rows import NOT_RUN, Change, Ending, Figure, Row
from bench.metrics.metric import Metric
from bench.metrics.units import counted, show
from bench.tasks.alike import said

LOG_LINES = 30

BY_OTHERS = "Measured by others"

OTHERS = (
    "This is what other tools say that they measured, on other data, machines and versions, by definitions of their own. "
    "Nothing here is compared with it, and it is in no verdict, front or pick."
)

HOW_TO_READ = (
    "Values are means over seeds ± half of their 95 % interval (Student's t): geometric means for all but quality, so that "
    "their ratios are the ratios shown. Changes are against the baseline, paired by seed: differences for quality, ratios for "
    "the rest. Training throughput was timed in turns with the baseline's, where the suite has turns: the baseline's is as its "
    "stages recorded it, each other one is so many times as high as in turns. What was timed on a busy machine, again and "
    "again, is left out of a figure. “Better” and “worse” mean"
    " that the whole interval lies on that side, “same” that it lies inside the margin, up to which a difference does not"
    " matter, and “not settled” that this run shows neither. A suite's [compare] table sets the margins;"
    " without one they are 1 point of quality (1 % of the baseline's figure where quality is no fraction) and 2 % of all else."
    " A quality difference must also hold against another choice of test "
    "items, where items are recorded; counted figures (bytes, parameters, FLOPs) are exact. "
    "Of the quality that ranks the recipes, “better” and “worse” hold for all recipes together: the chance that any is wrong"
    " is 5 % (Holm's correction), so that a recipe may be “not settled” though its own interval has no 0 in it. What is said to settle"
    " it would do so four times in five, if the difference is as large as it looks. All other"
    " figures are exploratory: each interval stands alone, and of twenty recipes that are equal about one looks different."
)


MOST = 5_000_000
"""Bytes of a page. A browser takes seconds for it, and minutes for what a sweep of thousands of recipes would be."""

ALL = "methodbench report DIR --format csv"
"""What has all that a page has no room for."""


def fitting(text: Callable[[Comparison], str], comparison: Comparison, room: int, each: int) -> tuple[str, int] | None:
    """`text` of `comparison` with as many recipes as fit into `room` bytes, the best first, and its size; None where it
    does not fit without any. A recipe takes about `each` bytes."""
    most = min(len(comparison.rows), 2 * max(0, room) // each)
    while True:
        found = text(replace(comparison, rows=comparison.rows[:most]))
        if (size := len(found.encode(errors="replace"))) <= room:
            return found, size
        if not most:
            return None
        most = min(most - 1, most * room // size * 9 // 10)


def titles(comparisons: Sequence[Comparison]) -> list[str]:
    """Of the suites, each once."""
    if isinstance(comparisons, Comparisons):
        return comparisons.titles
    return list(dict.fromkeys(comparison.title for comparison in comparisons))


def place(comparison: Comparison) -> str:
    """Model and task."""
    return f"{comparison.model} · {comparison.task}"


def data(comparison: Comparison) -> str:
    """What became of the task's texts; empty where that is not recorded."""
    return f"Data: {counted}." if (counted := said(comparison.data)) else ""


def seeds(comparison: Comparison) -> str:
    """``3 seeds (0, 1, 2)``, or ``3 to 8 seeds (0, 1, 2, 3, 4, 5, 6, 7)`` where they were added to some recipes."""
    numbers = [len(row.seeds) for row in comparison.rows]
    least, most = min(numbers, default=0), len(comparison.seeds)
    many = f"{least} to {most}" if least < most else f"{most}"
    return f"{many} seed{'' if most == 1 else 's'} ({', '.join(map(str, comparison.seeds))})"


def references(comparison: Comparison) -> str:
    """What the quality is to be seen beside: ``For reference: chance 0.12, untrained 0.13.``; empty where nothing is."""
    primary = comparison.primary
    scored = [
        f"{each.name} {show(each.figures[primary.name].value, primary.unit)}"
        for each in comparison.references
        if primary and primary.name in each.figures
    ]
    return f"For reference: {', '.join(scored)}." if scored else ""


def facts(comparison: Comparison, when: str) -> list[tuple[str, str]]:
    """What was run and where, in a few words each."""
    suite = comparison.suite
    budget = suite.get("budget") or {}
    items = next((len(found) for row in comparison.rows for found in row.correct.values()), 0)
    found = [("Model", comparison.model), ("Task", comparison.task)]
    if items:
        found.append(("Test items", f"{items:,}"))
    length = f"{budget['epochs']:g} epochs" if budget.get("epochs") else ""
    if length or budget.get("steps"):
        batch = f" × {budget['batch_size']} items" if budget.get("batch_size") else ""
        found.append(("Training", f"{length or counted(budget['steps'], 'step')}{batch}"))
    found.append(("Recipes", str(len(comparison.rows))))
    found.append(("Seeds", re.sub(" seeds? ", " ", seeds(comparison))))
    if here := machine(comparison.environment):
        found.append(("Machine", here))
    return [*found, *([("Run", when)] if when else [])]


def machine(environment: Mapping[str, Any]) -> str:
    """The machine of a run: ``AMD EPYC, 2 cores, 25.3 GB, 2 threads``; a GPU's name stands first. Empty where it is not
    recorded."""
    machine, parts = environment.get("machine"), []
    if not isinstance(machine, Mapping):
        return ""
    number = {key: value for key, value in machine.items() if isinstance(value, int)}
    if machine.get("device") == "cuda":
        parts += [str(machine.get("device_name") or "GPU"), show(number.get("gpu_memory"), "B")]
    parts += [
        str(machine.get("cpu") or ""),
        counted(number["cores"], "core") if "cores" in number else "",
        show(number.get("memory"), "B"),
        counted(number["threads"], "thread") if "threads" in number else "",
    ]
    return ", ".join(part for part in parts if part not in ("", "–"))


def proved(comparison: Comparison) -> tuple[int, int]:
    """In how many runs, a recipe and seed each, all evidence held, of those that came to their end."""
    ends = [ending.status for row in comparison.rows for ending in row.endings]
    return ends.count("ok"), ends.count("ok") + ends.count("invalid")


def claims(comparison: Comparison) -> tuple[int, int]:
    """How many claims held, of how many."""
    found = [proof for row in comparison.rows for proof in row.evidence]
    return sum(proof.held for proof in found), sum(proof.of for proof in found)


def middle(figure: Figure) -> str:
    """A figure without its interval."""
    return show(figure.value, figure.metric.unit)


def by_seed(figure: Figure) -> str:
    """The values of a figure, seed by seed."""
    return ", ".join(show(value, figure.metric.unit) for value in figure.by_seed.values())


def quoted(name: str) -> str:
    """A name as a shell takes it."""
    return shlex.quote(name)


def citation(comparison: Comparison) -> str:
    """The report as a BibTeX entry."""
    year = comparison.started[:4] if comparison.started[:4].isdigit() else ""
    title = re.sub(r"[{}\\]", "", comparison.title)
    fields = {
        "title": f"{title}: {place(comparison)}",
        "year": year,
        "note": f"methodbench {comparison.version}, run {comparison.run}, {seeds(comparison)}",
    }
    inside = "".join(f"  {key} = {{{value}}},\n" for key, value in fields.items() if value)
    return f"@misc{{methodbench-{comparison.run},\n{inside}}}"


def of_seeds(numbers: Sequence[int]) -> str:
    """``seed 1`` or ``seeds 0, 1, 2``."""
    return f"seed{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}"


def spelled(change: Change) -> str:
    """A change with its interval: ``0.43× (0.41 to 0.45)``."""
    return f"{change} ({between(change)})" if change.ends else str(change)


def between(change: Change) -> str:
    """The interval of a change: ``0.41 to 0.45``; empty where there is none or it has no width."""
    return " to ".join(change.ends or ())


def verdict(change: Change) -> str:
    """The verdict; where there is no interval to tell by, that."""
    return change.verdict if change.interval else "not settled: no interval"


def margin(metric: Metric, value: float) -> str:
    """A margin of a quality metric: ``1 point``, ``0.1 tokens``."""
    return show(value, metric.unit) if metric.unit != "fraction" else _points(value)


def _points(value: float) -> str:
    return f"{value * 100:.3g} point{'' if value == 0.01 else 's'}"


def verdicts(comparison: Comparison) -> str:
    """Up to where two recipes are the same, and which verdicts are exploratory, in a sentence or two."""
    found = comparison.margins
    own = {metric: found.own[metric.name] for metric in comparison.metrics if metric.name in found.own}
    parts = [f"{_points(found.quality)} of quality", *(f"{margin(m, own[m])} of {m.title.lower()}" for m in own)]
    text = f"“Same” is within {', '.join(parts)} and {found.cost * 100:g} % of costs."
    if primary := comparison.primary:
        text += f" {primary.title} is decided for all recipes together (Holm, 5 %); other verdicts are exploratory."
    if comparison.looks:
        text += f" Seeds were added to what was not settled: the 5 % are those of all {len(comparison.looks)} looks together."
    return text


def status(row: Row) -> str:
    """A row's status, with counts where seeds differ: ``oom (2 of 3 seeds ok)``."""
    if row.ok or not row.succeeded:
        return row.status
    return f"{row.status} ({len(row.succeeded)} of {len(row.endings)} seeds ok)"


def reason(ending: Ending) -> str:
    """Why a seed did not end ok; empty where nothing is known of it."""
    return ending.reason or ("no record of it in this folder" if ending.status == NOT_RUN else "")


def reasons(row: Row) -> list[str]:
    """Why seeds did not end ok, each reason once."""
    return list(dict.fromkeys(found for ending in row.endings if ending.status != "ok" and (found := reason(ending))))


def tail(log: str) -> str:
    """The last lines of a log."""
    return "\n".join(log.rstrip().splitlines()[-LOG_LINES:])


def without_result(comparison: Comparison) -> list[Row]:
    """The rows that did not end ok for every seed."""
    return [row for row in comparison.rows if not row.ok]


def by_training(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows that trained, together where they share their training; of those one may have more seeds."""
    found: list[list[Row]] = []
    for row in rows:
        if row.training:
            mine = set(row.training)
            for group in found:
                theirs = set(group[0].training)
                alike = len(mine) * len(group[0].clock) == len(theirs) * len(row.clock)  # as many trainings a seed
                if alike and (mine <= theirs or theirs <= mine):
                    group.append(row)
                    break
            else:
                found.append([row])
    return found


def chains(comparison: Comparison) -> list[Row]:
    """The recipes of several stages, whose quality was measured after each."""
    return [row for row in comparison.rows if len(row.chain) > 1 and all(figures for _, figures in row.chain)]


def chain_metrics(comparison: Comparison) -> list[Metric]:
    """The quality figures of the stages of those recipes."""
    return _metrics(comparison, (figures for row in chains(comparison) for _, figures in row.chain))


def divided(comparison: Comparison) -> list[Row]:
    """The recipes whose last training several processes did together."""
    return [row for row in comparison.rows if row.processes]


def process_metrics(comparison: Comparison) -> list[Metric]:
    """The figures of each of those processes."""
    return _metrics(comparison, (figures for row in divided(comparison) for figures in row.processes))


def _metrics(comparison: Comparison, parts: Iterable[Mapping[str, Figure]]) -> list[Metric]:
    names = {name for figures in parts for name in figures}
    return [metric for metric in comparison.metrics if metric.name in names]


def settings(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """An environment as lines: ``machine · cpu``, its value."""
    return list(_flat(environment, ()))


def _flat(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, (*path, str(key)))
    elif isinstance(value, list | tuple):
        # Versions come as pairs, CPU features as words.
        parts = [
            f"{part[0]} {part[1]}" if isinstance(part, list | tuple) and len(part) == 2 else str(part) for part in value
        ]
        yield " · ".join(path), ", ".join(parts)
    elif value is not None and value != "":
        yield (
            " · ".join(path),
            {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value),
        )
