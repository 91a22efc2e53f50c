"""Records as something to read: a table in the terminal, Markdown, LaTeX, one HTML file, JSON, CSV, Parquet, and figures."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Protocol, TextIO

from bench.compare.compare import Comparison, Comparisons
from bench.machine import disk
from bench.record.errors import RecordError
from bench.record.reading import Records, read
from reports.exchange.base import Foreign

FORMATS = ("table", "md", "html", "json", "csv", "tex")
"""What :func:`render` knows. :func:`write` also knows :data:`FILES`."""

FILES = ("parquet", "svg", "pdf", "png")
"""What is no text: a table for programs, and the figures, each as a file of its own."""

WITH_OTHERS = ("md", "html", "json", "csv")
"""What has room for what others measured (:mod:`reports.exchange`)."""


class Page(Protocol):
    """A report being written. It is given each comparison once, as making one takes time and all take much memory."""

    def add(self, comparison: Comparison) -> str:
        """The text that comes next, if it is known yet."""

    def end(self) -> str:
        """The rest."""


def comparisons(records: Records) -> Comparisons:
    """What `records` compare; each is made when it is asked for.

    Raises:
        RecordError: there are none that can be read.
    """
    if records.warnings and not records.runs:
        raise RecordError(f"{records.file}: there is no whole record of a run in it; {records.warnings[0]}")
    return Comparisons(records)


def render(folder: str | PathLike[str], format: str) -> str:
    """The records in `folder` in one of :data:`FORMATS`.

    Raises:
        ValueError: there is no such format.
    """
    return "".join(pieces(folder, format))


def pieces(folder: str | PathLike[str], format: str, foreign: Sequence[Foreign] = ()) -> Iterable[str]:
    """What :func:`render` gives, bit by bit: whole, that of a hundred thousand records takes much memory. `foreign` is what
    others measured, in one of :data:`WITH_OTHERS`.

    Raises:
        ValueError: there is no such format.
    """
    page = _page(format, foreign=foreign)
    return _pieces(page, comparisons(read(folder)))


def render_comparisons(found: Sequence[Comparison], format: str) -> str:
    """`found` in one of :data:`FORMATS`.

    Raises:
        ValueError: there is no such format.
    """
    return "".join(_pieces(_page(format), found))


def _pieces(page: Callable[[Sequence[Comparison]], Page], found: Sequence[Comparison]) -> Iterator[str]:
    begun = page(found)
    for comparison in found:
        yield begun.add(comparison)
    yield begun.end()


def write(
    source: str | PathLike[str] | Records,
    formats: Iterable[str],
    out: str | PathLike[str],
    *others: Page,
    inches: float = 6.9,
    static: bool = False,
    foreign: Sequence[Foreign] = (),
) -> list[Path]:
    """Write reports of the records in `source` into the folder `out`, and say where: ``report.html`` and so on.

    `source` is a results folder, or its records where they were read already. `others` are given each comparison too.
    `inches` is the width of figures. A `static` HTML page has its figures as they were drawn, without Vega, which makes them
    interactive. `foreign` is what others measured, in one of :data:`WITH_OTHERS`.

    Raises:
        ValueError: there is no such format; MachineError: one needs a package. No report is written then.
    """
    from reports import export, figure_files

    target = Path(out)
    wanted = {format: None if format in FILES else _page(format, static=static, foreign=foreign) for format in formats}
    found = comparisons(source if isinstance(source, Records) else read(source))
    target.mkdir(parents=True, exist_ok=True)
    written: list[list[Path]] = []
    with contextlib.ExitStack() as stack:
        begun: list[tuple[Page, Callable[[str], object]]] = [(page, lambda text: None) for page in others]
        for format, page in wanted.items():
            if format in figure_files.FORMATS:
                files = figure_files.Files(found, target, format, inches)
                begun.append((files, lambda text: None))
                written.append(files.written)
                continue
            written.append([_file(target, format)])
            half = stack.enter_context(disk.atomic(_file(target, format)))
            if page is None:
                begun.append((export.Parquet(half), lambda text: None))
            else:
                # The renderers' own line ends: no second carriage return in CSV on Windows.
                file = stack.enter_context(half.open("w", encoding="utf-8", errors="replace", newline=""))
                begun.append((page(found), functools.partial(_put, file)))
        for comparison in found:
            for each, put in begun:
                put(each.add(comparison))
        for each, put in begun:
            put(each.end())
    return [path for paths in written for path in paths]


def _put(file: TextIO, text: str) -> None:
    try:
        file.write(text)
    except OSError as error:
        error.filename = file.name.removesuffix(".part")
        raise


def _file(folder: Path, format: str) -> Path:
    return folder / f"report.{'txt' if format == 'table' else format}"


def _page(
    format: str, *, static: bool = False, foreign: Sequence[Foreign] = ()
) -> Callable[[Sequence[Comparison]], Page]:
    """What begins a page in `format` of the comparisons that it will be given."""
    from reports import export, html, markdown, table, tex

    known: dict[str, Callable[[Sequence[Comparison]], Page]] = {
        "table": table.Page,
        "md": functools.partial(markdown.Page, foreign=foreign),
        "html": functools.partial(html.Page, static=static, foreign=foreign),
        "json": functools.partial(export.Json, foreign=foreign),
        "csv": functools.partial(export.Csv, foreign=foreign),
        "tex": tex.Page,
    }
    if format not in known:
        raise ValueError(f"unknown format `{format}`; known: {', '.join(known)}, and as files {', '.join(FILES)}")
    return known[format]
