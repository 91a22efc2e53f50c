"""The facts of a comparison as plain sentences. Names stand in backticks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from bench.compare.answer import (
    Cheapest,
    Fact,
    Incomplete,
    NoQuality,
    NoResult,
    OneSeed,
    Slower,
    Trap,
    Uncompared,
    Unscored,
    Unsettled,
    Verdicts,
    Win,
    answer,
)  # fmt: skip
from bench.compare.compare import Comparison
from bench.compare.doubts import (
    AtEdge,
    Busy,
    Differing,
    Doubt,
    FailedBaseline,
    LeftOut,
    MoreUnread,
    NoBaseline,
    Noted,
    NotInTurns,
    NoTrial,
    OtherCards,
    Unmeasured,
    Unread,
    Unregistered,
    WentOn,
)  # fmt: skip
from bench.compare.rows import Change, Row, Verdict
from bench.compare.stats import MOST_SEEDS
from bench.metrics import registry
from bench.metrics.metric import Metric
from bench.metrics.units import show
from reports import words


def headline(comparison: Comparison) -> list[str]:
    """The answer in a few sentences, the most important first."""
    return list(map(_fact, answer(comparison)))


def beside_cards(facts: Iterable[Fact]) -> list[str]:
    """`facts` in a sentence each, without those that the cards of a page say."""
    return [_fact(fact) for fact in facts if not isinstance(fact, Cheapest)]


def warnings(comparison: Comparison) -> list[str]:
    """What a reader must know before trusting it."""
    return list(map(_doubt, comparison.doubts))


def _fact(fact: Fact) -> str:
    match fact:
        case NoResult():
            return "No recipe gave a result for every seed."
        case NoQuality():
            return "Quality was not measured, so this compares cost only."
        case Unscored(metric):
            return f"{metric.title} was measured for no recipe that ended ok."
        case Uncompared(metric, row, others):
            if not others:
                text = f"{metric.title.lower()} {row.figures[metric.name]}; there is no other result to compare it with"
            else:
                most = "highest" if metric.better == "higher" else "lowest"
                text = f"the {most} {metric.title.lower()}, {row.figures[metric.name]}; the baseline has none to compare it with"
            return f"{_name(row)} has {text}."
        case Verdicts():
            return _verdicts(fact)
        case Cheapest(quality, baseline, wins):
            recipes: dict[str, list[str]] = {}
            for win in wins:
                recipes.setdefault(win.row.name, []).append(_win(win, baseline))
            among = f"Of those with the same or better {quality.title.lower()}" if quality else "Of all recipes"
            return f"{among}, {'; '.join(f'{_name(name)} {_listed(parts)}' for name, parts in recipes.items())}."
        case Unsettled():
            return _unsettled(fact)
        case Trap():
            return _trap(fact)
        case Slower(latency, of, found):
            names = [f"{_name(row)} ({figure}{' ⚠' if figure.contended else ''})" for row, figure in found]
            return (
                f"{len(found)} of {of} compressed models are slower than the one they were made from "
                f"({_lower(latency)}, timed in turns): {_shortened(names)}."
            )
        case Incomplete(of, rows):
            names = [f"{_name(row)} ({words.status(row)})" for row in rows]
            verb = "is" if len(rows) == 1 else "are"
            return f"{len(rows)} of {_count(of, 'recipe')} {verb} without a full result: {_shortened(names)}."
        case OneSeed(over_items):
            items = ": intervals of quality cover the choice of test items alone."
            return f"Only one seed ran, so training noise is not covered{items if over_items else ' and nothing has an interval.'}"


def _verdicts(fact: Verdicts) -> str:
    metric, rows = fact.metric, fact.rows
    phrases: dict[Verdict, str] = {
        "better": "better",
        "same": f"the same within {words.margin(metric, fact.margin)}",
        "worse": "worse",
        "not settled": "not settled",
    }
    said = [
        f"{_many(rows[verdict])} {'is' if len(rows[verdict]) == 1 else 'are'} {phrase}"
        for verdict, phrase in phrases.items()
        if rows[verdict]
    ]
    baseline = f"{_name(fact.baseline)} ({metric.title.lower()} {fact.baseline.figures[metric.name]})"
    return f"Beside the baseline {baseline}, {'; '.join(said)}."


def _unsettled(fact: Unsettled) -> str:
    ranked = sorted(fact.rows, key=lambda pair: (pair[1].settling and pair[1].settling.seeds) or math.inf)
    groups: dict[str, list[Row]] = {}
    items: list[Row] = []
    detected = []
    for row, change in ranked:
        assert change.settling, "Unsettled has only changes with one"
        if change.settling.needs_items:
            items.append(row)
        else:
            seeds = "more than one" if change.covers == "items" else str(change.settling.seeds or f"over {MOST_SEEDS}")
            groups.setdefault(seeds, []).append(row)
        detected.append(change.settling.detectable)
    quality, said = fact.metric.title.lower(), []
    if groups:
        parts = "; ".join(f"{seeds} for {_names(rows)}" for seeds, rows in groups.items())
        said.append(f"Seeds that would settle {quality}: {parts}.")
    if items:
        said.append(f"No number of seeds would settle {quality} of {_names(items)}: that takes more test items.")
    ends = dict.fromkeys(words.margin(fact.metric, value) for value in (min(detected), max(detected)))
    by = ", by recipe" if len(ends) > 1 else ""
    return f"{' '.join(said)} The smallest difference that this run detects is {' to '.join(ends)}{by}."


def _win(win: Win, baseline: str) -> str:
    metric = win.change.metric
    value = f"{show(win.figure.value, metric.unit)}{' ⚠' if win.change.contended else ''}"
    doubt = "" if win.change.interval else ", no interval"
    assert metric.summary, "Comparison.costs has only metrics with one"
    return f"{metric.summary.best} ({value}, {win.change} of {_name(baseline)}{doubt})"


def _trap(trap: Trap) -> str:
    claim = (
        "Smaller is not faster here"
        if trap.cheap.family == "size"
        else "Less training memory does not mean faster training here"
    )
    found = []
    for row, saves, costs in trap.found:
        doubt = "" if costs.interval else ", no interval"
        found.append(f"{_name(row)} ({_times(saves)}, but {_times(costs)}{doubt})")
    return f"{claim}: {_shortened(found, 3)}, against the baseline {_name(trap.baseline)}."


def _doubt(doubt: Doubt) -> str:
    match doubt:
        case Unread(text) | Noted(text):
            return text
        case MoreUnread(lines):
            return f"{_count(lines, 'more line')} of the records left out"
        case AtEdge(tuning):
            rates = _listed([f"{rate:g}" for rate in tuning.beyond])
            return (
                f"The best learning rate of {_name(tuning.recipe)}, {tuning.lr:g}, is the {tuning.edge} that was tried, so that a "
                f"better one may lie beyond: add {rates} to `lr` of `[tune]`."
            )
        case NoTrial(recipe):
            return f"No trial of {_name(recipe)} ended ok, so that it runs with its own learning rate."
        case NoBaseline(baseline):
            return f"The baseline {_name(baseline)} is not among the recipes, so there are no ratios."
        case FailedBaseline(row):
            less = "ratios rest on the seeds that ended ok" if row.succeeded else "there are no ratios"
            return f"The baseline {_name(row)} is {words.status(row)}, so {less}."
        case Differing(setting, values):
            return (
                f"Records of different environments are compared: {setting} is {' and '.join(values)}. "
                "Do not trust ratios between them."
            )
        case Unmeasured(metric, reason, recipes):
            return f"Not measured: {_title(metric)} of {_names(recipes)}: {reason.replace('`', chr(39))}."
        case Unregistered(figures):
            return (
                f"Recorded and not shown, for no metric of that name is registered here: {_names(figures)}. "
                "Install the package that registers it."
            )
        case OtherCards(baseline, recipes):
            return (
                f"Not on the card of the baseline {_name(baseline)} for each seed: {_names(recipes)}. Cards of one "
                "kind differ by some percent; run them again with `--fresh` on one machine."
            )
        case NotInTurns(reason, recipes):
            return (
                f"The training of {_names(recipes)} took no turns with the baseline's, so its throughput is less certain: "
                f"{reason.replace('`', chr(39))}."
            )
        case WentOn(seeds):
            said = [
                f"{_name(name)}, seed {seed}, after step {_listed([str(step) for step in steps])}"
                for name, each in seeds.items()
                for seed, steps in each.items()
            ]
            return f"Stopped, and went on in another process from what was saved: {_shortened(said)}."
        case LeftOut(seeds):
            said = [
                f"seed{'s' if len(each) > 1 else ''} {_listed([str(seed) for seed in each])} of {_name(name)}"
                for name, each in seeds.items()
            ]
            return f"Timings taken while the machine was busy are left out of the figures: {_shortened(said)}."
        case Busy(recipes):
            return (
                f"Timings taken while the machine was busy are marked ⚠: {_names(recipes)}. "
                "Run them again on a quiet machine."
            )


def _title(name: str) -> str:
    """What readers call the metric `name`, or the family of metrics."""
    try:
        return registry.metric(name).title
    except KeyError:
        return name.replace("_", " ").capitalize()


def _lower(metric: Metric) -> str:
    return metric.title[0].lower() + metric.title[1:]


def _times(change: Change) -> str:
    return f"{change} {_lower(change.metric)}"


def _name(of: Row | str) -> str:
    name = of if isinstance(of, str) else of.name
    return "`" + name.replace("`", "'") + "`"


def _names(recipes: Sequence[Row | str]) -> str:
    return _shortened([_name(recipe) for recipe in recipes])


def _many(recipes: Sequence[Row], most: int = 4) -> str:
    """A few names, or how many there are."""
    return _names(recipes) if len(recipes) <= most else _count(len(recipes), "recipe")


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _shortened(parts: Sequence[str], most: int = 8) -> str:
    return _listed([*parts[:most], f"{len(parts) - most} more"] if len(parts) > most else parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
