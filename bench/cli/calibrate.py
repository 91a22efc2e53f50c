"""``methodbench calibrate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import options
from bench.cli.say import fail, say

if TYPE_CHECKING:
    from bench.gate.calibrate import Noise


def calibrate_(
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="A suite file with a [gate] table.")],
    pairs: Annotated[int, typer.Option("--pairs", min=6, max=1000, help="Pairs to measure.")] = 20,
    allow: options.Allow = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The results folder.", show_default="results/calibrate/SUITE")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Objects with all digits.")] = False,
) -> None:
    """Compare this environment with itself: the noise here, the smallest change a gate can find, the pairs it needs."""
    from dataclasses import asdict

    from bench.gate import targets
    from bench.gate.calibrate import calibrate
    from bench.gate.gate import GateError

    file = targets.suite_file(suite)
    folder = out or Path("results") / "calibrate" / file.stem
    folder.mkdir(parents=True, exist_ok=True)
    try:
        table = options.gate_table(file, allow or [], None)
        found = calibrate(*targets.of_itself(file, folder), table, folder, pairs, lambda line: say(line, error=True))
    except GateError as error:
        fail(f"error: {error}")
    except KeyboardInterrupt:
        say(f"\nInterrupted. What was measured is kept in {folder}; the same command goes on from there.", error=True)
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps([asdict(noise) for noise in found], indent=2))
        return
    _show(found)


def _show(found: list[Noise]) -> None:
    from rich.console import Console
    from rich.table import Table

    from bench.metrics.units import show

    def change(noise: Noise, value: float) -> str:
        return f"{value:.2%}".replace("%", " %") if noise.scale == "ratio" else show(value, noise.unit)

    table = Table(box=None, pad_edge=False)
    for heading, justify in (
        ("recipe", "left"), ("metric", "left"), ("spread", "right"), ("of wall\ntime", "right"),
        ("smallest\nchange", "right"), ("allowed", "right"), ("pairs\nneeded", "right"),
    ):  # fmt: skip
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for noise in found:
        wall = "" if noise.wall_spread is None else f"{noise.wall_spread:.2%}".replace("%", " %")
        needed = "over 1,000" if noise.needed is None else "any" if not noise.needed else str(noise.needed)
        table.add_row(
            noise.recipe, noise.metric, change(noise, noise.spread), wall, change(noise, noise.smallest), noise.allowed,
            needed,
        )  # fmt: skip
    Console().print(table)
    say(
        "\nspread: standard deviation of the difference of a pair of the same. smallest change: found nine times in ten."
    )
