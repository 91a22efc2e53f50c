"""The drawing of a performance profile."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.compare.profile import Profile
from reports.drawing import HEIGHT, PALETTE, WIDTH, Drawing, spec_of

_DASHES = ([1, 0], [6, 3], [2, 2])
CURVES = 20
"""More than this nobody can read in one figure."""


def best(profile: Profile) -> list[str]:
    """The recipes, those first that are cheapest on most tasks, then those that did most of them."""
    return sorted(profile.ratios, key=lambda name: (-profile.share(name, 1.0), profile.ratios[name]))


def drawing(profile: Profile) -> Drawing:
    """The share of tasks against how many times the cheapest recipe's cost, a step line for each of the best recipes."""
    import altair as alt

    some = [name for name in best(profile) if math.isfinite(profile.ratios[name][0])]
    names = some[:CURVES]
    finite = [ratio for name in names for ratio in profile.ratios[name] if math.isfinite(ratio)]
    top = max([1.1, *(1.1 * ratio for ratio in finite)])
    points = [{"name": name, "times": x, "share": y} for name in names for x, y in _steps(profile, name, top)]
    look = range(len(names))
    chart = (
        alt.Chart(alt.NamedData("steps"))
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            x=alt.X(
                "times:Q",
                scale=alt.Scale(type="log", domain=[1, top], nice=False),
                title="times the cheapest",
                axis=alt.Axis(tickCount=5),
            ),
            y=alt.Y("share:Q", scale=alt.Scale(domain=[0, 1]), title="share of tasks"),
            color=alt.Color(
                "name:N",
                scale=alt.Scale(domain=names, range=[PALETTE[i % len(PALETTE)] for i in look]),
                legend=alt.Legend(title=None, orient="bottom", columns=2, labelLimit=200, symbolType="stroke"),
            ),
            strokeDash=alt.StrokeDash(
                "name:N",
                scale=alt.Scale(domain=names, range=[_DASHES[i // len(PALETTE) % len(_DASHES)] for i in look]),
            ),
        )
        .properties(width=WIDTH, height=HEIGHT)
    )
    title = f"{profile.metric.title} over {len(profile.tasks)} tasks"
    left_out = len(some) - len(names)
    caption = (
        "At 1, a line shows on what share of tasks the recipe is the cheapest; further to the right, on what share it needs at "
        "most so many times what the cheapest one does. A recipe did a task if it ended ok and its quality is not worse than the "
        "baseline's." + (f" {left_out} more recipes are left out." if left_out else "")
    )
    return Drawing("profile", title, caption, spec_of(chart, steps=points))


def _steps(profile: Profile, name: str, top: float) -> Sequence[tuple[float, float]]:
    """Where the line rises, and its ends."""
    finite = sorted({ratio for ratio in profile.ratios[name] if math.isfinite(ratio)})
    return [(x, profile.share(name, x)) for x in sorted({1.0, *finite, top})]
