"""The course of a metric over results folders, in words and as a line of bars."""

from __future__ import annotations

from bench.gate.history import ChangePoint, Course
from bench.metrics.units import show

_BARS = "▁▂▃▄▅▆▇█"


def bars(course: Course, most: int = 20) -> str:
    """The latest values as bars from the least to the largest; ``·`` where one is missing."""
    values = [point.value for point in course.points[-most:]]
    known = [value for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    height = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join("·" if value is None else _BARS[round((value - low) * height)] for value in values)


def ends(course: Course) -> tuple[str, str]:
    """The first value and the last."""
    values = [point.value for point in course.points if point.value is not None]
    return (show(values[0], course.unit), show(values[-1], course.unit)) if values else ("–", "–")


def change(course: Course, change: ChangePoint) -> str:
    """What changed, by how much and from where on."""
    point, up = course.points[change.at], change.after > change.before
    by = abs(change.after - change.before)
    shown = (
        show(by, course.unit) if course.family == "quality" or not change.before else f"{by / abs(change.before):.1%}"
    )
    way = "better" if up == (course.better == "higher") else "worse"
    means = f"{show(change.before, course.unit)} before, {show(change.after, course.unit)} after"
    return (
        f"{course.recipe}: {course.title} is {shown} {'higher' if up else 'lower'}, which is {way}, from {point.name} on "
        f"({point.started[:10]}): {means}, p = {change.p_value:.2g}"
    )
