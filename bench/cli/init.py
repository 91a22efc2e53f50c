"""``methodbench init``."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.say import fail, say

if TYPE_CHECKING:
    import pandas

    from bench.tasks.rows import Rows

_LABELS = ("label", "class", "category", "target", "topic", "kind", "intent", "sentiment")
"""What columns of labels are often called."""

_NUMBERS = ("label", "target", "score", "rating", "value")
"""What columns of numbers to predict are often called."""

_ROWS = 5000
"""Enough to see what columns hold."""


@dataclass(frozen=True)
class Found:
    """What a file of data seems to be: a kind of task, its columns, and room in tokens for most of its texts."""

    kind: str
    max_length: int
    text: str | None = None
    label: str | None = None
    classes: int = 0


def init_(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name, or a transformers directory.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A .csv, .tsv, .jsonl, .parquet, .arrow or .txt file.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The suite file to write.")] = Path("suite.toml"),
) -> None:
    """Write a first suite for a model and a data file, from a look at both."""
    import tomllib

    from bench.execute.suites import prepare
    from bench.tasks.base import TaskError

    if out.exists():
        fail(f"error: {out}: this file is there already; give another with --out, or remove it")
    try:
        found = look(data)
    except TaskError as error:
        fail(f"error: {error}")
    text = suite(model, data, found, out.parent)
    # So that it can be run: this reads every row, and the model's files.
    asked = prepare(tomllib.loads(text), suite_folder=out.parent)
    refusals = list(asked.refusals())
    if not asked.plan.select(asked.names).nodes:
        fail("\n".join([f"error: {data} seems to be for {found.kind}, and no recipe can run:", *refusals]))
    out.write_text(text, encoding="utf-8")
    columns = f", text in `{found.text}`" if found.text else ""
    if found.label:
        columns += f", {found.classes} classes in `{found.label}`" if found.classes else f", numbers in `{found.label}`"
    say(f"{data}: {found.kind}{columns}")
    for line in refusals:
        say(line, error=True)
    say(f"wrote {out}; look at it, then: methodbench run {out}")


def look(data: Path) -> Found:
    """What `data` seems to be, from its first rows.

    Raises:
        TaskError: it cannot be read, or has no text.
    """
    from bench.tasks.rows import Rows

    rows = Rows(data, ())
    if data.suffix.lower() == ".txt":
        rows.content()
        return Found("causal_lm", 128)
    frame = _frame(rows)
    texts = {
        name: column.str.len().mean()
        for name, column in frame.items()
        if all(isinstance(value, str) for value in column)
    }
    if not texts:
        raise rows.error("no column holds a text in every row")
    text = max(texts, key=lambda name: texts[name])
    others = frame.drop(columns=text)
    label, number = _label(others), _number(others)
    if label is None and number is None:
        return Found("causal_lm", 128, str(text))
    # About four characters a token, and room for nineteen texts of twenty.
    tokens = frame[text].str.len().quantile(0.95) / 4
    lengths = (16, 32, 64, 128, 256)
    max_length = next((length for length in lengths if length >= tokens), lengths[-1])
    if label is None:
        return Found("regression", max_length, str(text), number)
    return Found("classification", max_length, str(text), label, frame[label].nunique())


def _frame(rows: Rows) -> pandas.DataFrame:
    import io

    import pandas

    from bench.tasks.rows import SUFFIXES

    suffix = rows.suffix
    rows.fingerprint()  # says what is wrong with the file itself
    try:
        if suffix in (".csv", ".tsv"):
            file, separator = io.StringIO(rows.content()), "\t" if suffix == ".tsv" else ","
            return pandas.read_csv(file, nrows=_ROWS, dtype=object, keep_default_na=False, sep=separator)
        if suffix == ".jsonl":
            return pandas.read_json(io.StringIO(rows.content()), lines=True, nrows=_ROWS, dtype=False)
        if suffix in (".parquet", ".arrow"):
            return (pandas.read_parquet if suffix == ".parquet" else pandas.read_feather)(rows.file).head(_ROWS)
    except (
        ValueError,
        AttributeError,
        OSError,
    ) as error:  # pandas' own, and what it does with lines that are no objects
        raise rows.error(f"it is not a table: {error}") from None
    raise rows.error(f"files of kind `{suffix}` are not read; give it as {', '.join(SUFFIXES)} or .txt")


def _label(frame: pandas.DataFrame) -> str | None:
    """The column whose values repeat as classes do: one with a usual name, else the one with the fewest; None without any."""
    classes = {str(name): column.astype(str).nunique() for name, column in frame.items()}
    likely = [name for name, number in classes.items() if 2 <= number <= max(2, min(100, len(frame) // 5))]
    usual = [name for name in likely if name.strip().lower() in _LABELS]
    return min(usual or likely, key=lambda name: classes[name], default=None)


def _number(frame: pandas.DataFrame) -> str | None:
    """The column of numbers with a usual name of what is to be predicted; None without one."""
    import pandas

    numbers = [str(name) for name, column in frame.items() if pandas.to_numeric(column, errors="coerce").notna().all()]
    return next((name for name in numbers if name.strip().lower() in _NUMBERS), None)


def suite(model: str, data: Path, found: Found, folder: Path) -> str:
    """The text of a suite file in `folder`."""
    from bench.models.registry import models

    if model not in models() and Path(model).expanduser().is_dir():
        model = os.path.relpath(Path(model).expanduser(), folder)
    columns = [f"text  = {_quoted(found.text)}  # the column of texts"] if found.text else []
    columns += (
        [f"label = {_quoted(found.label)}  # the column of {'classes' if found.classes else 'numbers'}"]
        if found.label
        else []
    )
    head = ['head          = "head"  # trains the new head alone'] if found.label else []
    lines = [
        "# A first suite, from a look at the model and the data. `methodbench plan` shows what it runs.",
        "",
        f"title    = {_quoted(data.stem)}",
        f"model    = {_quoted(model)}",
        'baseline = "full"     # all others are compared with it',
        "seeds    = [0, 1, 2]  # more of them tell smaller differences",
        "",
        "[task]",
        f"kind  = {_quoted(found.kind)}",
        f"data  = {_quoted(os.path.relpath(data, folder))}",
        *columns,
        "",
        "[budget]",
        "steps      = 60  # updates of each trainer: enough to see costs, quality may need more",
        "batch_size = 16",
        f"max_length = {found.max_length}  # tokens an item; longer ones are cut",
        "",
        "[recipes]  # `methodbench list methods` has more",
        'full          = "full"',
        *head,
        'lora          = "lora(r=8)"',
        'full-int8     = "full >> torch_int8_dynamic"',
        'pruned-healed = "full >> prune_ffn(0.5) >> full(share=0.3)"',
    ]
    return "\n".join([*lines, ""])


def _quoted(text: str | None) -> str:
    """As TOML has it, whose basic strings are JSON's."""
    return json.dumps(text, ensure_ascii=False)
