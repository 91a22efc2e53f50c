"""Records as something to read: a table in the terminal, Markdown, one HTML file, JSON and CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from pathlib import Path

from bench.compare.compare import Comparison, Comparisons
from bench.machine import disk

FORMATS = ("table", "md", "html", "json", "csv")
"""What :func:`render` knows. :func:`write` also knows ``svg``: the figures alone."""


def comparisons(folder: str | PathLike[str]) -> Sequence[Comparison]:
    """What the records in `folder` compare; each is made when it is asked for.

    Raises:
        RecordError: there are none that can be read.
    """
    from bench.record.errors import RecordError
    from bench.record.reading import read

    records = read(folder)
    if records.warnings and not records.runs:
        raise RecordError(f"{records.file}: there is no whole record of a run in it; {records.warnings[0]}")
    return Comparisons(records)


def render(folder: str | PathLike[str], format: str) -> str:
    """The records in `folder` in one of :data:`FORMATS`.

    Raises:
        ValueError: there is no such format.
    """
    return render_comparisons(comparisons(folder), format)


def pieces(folder: str | PathLike[str], format: str) -> Iterable[str]:
    """What :func:`render` gives, bit by bit: whole, that of a hundred thousand records takes much memory.

    Raises:
        ValueError: there is no such format.
    """
    _renderer(format)
    return _pieces(comparisons(folder), format)


def render_comparisons(found: Sequence[Comparison], format: str) -> str:
    """`found` in one of :data:`FORMATS`.

    Raises:
        ValueError: there is no such format.
    """
    return _renderer(format)(found)


def write(folder: str | PathLike[str], formats: Iterable[str], out: str | PathLike[str]) -> list[Path]:
    """Write reports of the records in `folder` into the folder `out`, and say where: ``report.html`` and so
    on.

    Raises:
        ValueError: there is no such format; nothing is written then.
    """
    wanted = list(dict.fromkeys(formats))
    for format in wanted:
        if format != "svg":
            _renderer(format)
    found = comparisons(folder)
    target = Path(out)
    target.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for format in wanted:
        if format == "svg":
            from reports import figures

            written += figures.write_svg(found, target)
        else:
            path = target / f"report.{'txt' if format == 'table' else format}"
            # The renderers' own line ends: no second carriage return in CSV on Windows.
            with disk.whole(path) as half, half.open("w", encoding="utf-8", errors="replace", newline="") as file:
                file.writelines(_pieces(found, format))
            written.append(path)
    return written


def _pieces(found: Sequence[Comparison], format: str) -> Iterable[str]:
    from reports import export

    bit_by_bit = {"csv": export.csv_pieces, "json": export.json_pieces}
    return bit_by_bit[format](found) if format in bit_by_bit else [render_comparisons(found, format)]


def _renderer(format: str) -> Callable[[Sequence[Comparison]], str]:
    from reports import export, html, markdown, table

    renderers = {
        "table": table.render,
        "md": markdown.render,
        "html": html.render,
        "json": export.to_json,
        "csv": export.to_csv,
    }
    if format not in renderers:
        raise ValueError(f"unknown format `{format}`; known: {', '.join(renderers)}, and svg as files")
    return renderers[format]
