from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.tasks.base import TaskError
from bench.tasks.rows import Rows

RECORDS: list[dict[str, Any]] = [
    {"text": f"text {n}", "tokens": ["a", "b"], "answers": {"text": [f"t{n}"], "start": [n]}, "label": n}
    for n in range(2500)
]


@pytest.fixture(params=["rows.jsonl", "rows.parquet", "stream.arrow", "file.arrow"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path, table = tmp_path / request.param, pa.Table.from_pylist(RECORDS)
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, RECORDS)))
    elif path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        make = pa.ipc.new_stream if path.stem == "stream" else pa.ipc.new_file
        with make(str(path), table.schema) as sink:
            sink.write_table(table, max_chunksize=700)
    return path


def test_each_format_has_the_same_rows(file: Path) -> None:
    rows = list(Rows(file, ["label", "answers.text", "tokens"]))
    assert [row.values["label"] for row in rows] == list(range(2500))
    assert [row.number for row in rows[:3]] == [1, 2, 3]
    assert rows[7].values == {"label": 7, "answers.text": ["t7"], "tokens": ["a", "b"]}
    assert rows[7].list_in("tokens") == ["a", "b"]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (["texts"], "`texts`; did you mean `text`?"),
        (["answers.starts"], "`answers.starts`; did you mean `start`?"),
        (["label.x"], "1 has no `label.x`"),
        (["text", "text"], "column `text` is named twice"),
    ],
)
def test_a_missing_column_is_named_with_the_nearest(columns: list[str], says: str, file: Path) -> None:
    with pytest.raises(TaskError) as error:
        list(Rows(file, columns))
    assert str(error.value).startswith(str(file))
    assert says in str(error.value)


def test_a_binary_file_that_is_cut_short_is_said(file: Path) -> None:
    if file.suffix == ".jsonl":
        pytest.skip("text")
    whole = file.read_bytes()
    for cut in (0, 5, len(whole) // 2, len(whole) - 20):
        file.write_bytes(whole[:cut])
        with pytest.raises(TaskError) as error:
            list(Rows(file, ["text"]))
        assert str(error.value).startswith(f"{file}: it ")


def test_tsv_and_lists_in_text(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("tokens\ttags\nNew York, here\tB I O\n")
    (row,) = Rows(tmp_path / "a.tsv", ["tokens", "tags"])
    assert row.list_in("tokens") == ["New", "York,", "here"]
    assert row.list_in("tags") == ["B", "I", "O"]
    (tmp_path / "a.jsonl").write_text('{"tokens": "New York"}')
    (row,) = Rows(tmp_path / "a.jsonl", ["tokens"])
    with pytest.raises(
        TaskError, match=r"a.jsonl: line 1: `tokens` is a list, as \[\"one\", \"two\"\], found 'New York'"
    ):
        row.list_in("tokens")


def test_a_text_of_10_mb_is_read(tmp_path: Path) -> None:
    text = "word " * 2_000_000
    (tmp_path / "a.csv").write_text(f"text,label\n{text},a\n")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text, "label": "a"}))
    for name in ("a.csv", "a.jsonl"):
        (row,) = Rows(tmp_path / name, ["text"])
        assert row.text("text") == text


@pytest.mark.parametrize("value", ["3.5", 3.5, " 3.5 ", 7])
def test_numbers(value: object, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"x": value}))
    (row,) = Rows(tmp_path / "a.jsonl", ["x"])
    assert row.number_in("x") == float(value)  # type: ignore[arg-type]
