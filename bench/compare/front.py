"""The Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Direction = Literal["higher", "lower"]


def front(
    points: Sequence[tuple[float, float]], better: tuple[Direction, Direction] = ("lower", "higher")
) -> list[int]:
    """The Pareto front: indices of the points that no other beats in one coordinate without losing in the
    other.

    Ordered by the first coordinate, the best first; of points that are the same, all are on it. `better`
    gives each coordinate's direction; the default suits (cost, quality).
    """
    signs = [-1.0 if direction == "higher" else 1.0 for direction in better]
    flipped = [(signs[0] * x, signs[1] * y) for x, y in points]
    found: list[int] = []
    for index in sorted(range(len(points)), key=flipped.__getitem__):
        if not found or flipped[index][1] < flipped[found[-1]][1] or flipped[index] == flipped[found[-1]]:
            found.append(index)
    return found
