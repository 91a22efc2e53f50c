"""``methodbench init``: the suite that it writes runs, and says what was seen."""

import csv
import json
import tomllib

import pytest

from bench.cli.init import look
from bench.tasks.base import TaskError
from tests.command import methodbench

KINDS = ("bug", "feature", "question")


def rows(number=200):
    return [
        {"id": f"{i}", "body": f"the fox number {i} jumps over {i * 7} dogs", "from": f"u{i % 2}", "kind": KINDS[i % 3]}
        for i in range(number)
    ]


@pytest.fixture
def table(tmp_path):
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "body", "from", "kind"])
        writer.writeheader()
        writer.writerows(rows())
    return tmp_path / "mine.csv"


def test_what_is_written_can_be_planned_and_is_not_written_over(tiny_bert, table, tmp_path):
    (tmp_path / "suites").mkdir()
    said = methodbench("init", tiny_bert, "mine.csv", "--out", "suites/first.toml", cwd=tmp_path)
    assert "mine.csv: classification, text in `body`, 3 classes in `kind`" in said
    file = tmp_path / "suites" / "first.toml"
    suite = tomllib.loads(file.read_text())
    assert suite["task"] == {"kind": "classification", "data": "../mine.csv", "text": "body", "label": "kind"}
    # Six stages of each of three seeds. Paths begin at the file, wherever the command is.
    assert "18 stages" in methodbench("plan", file, cwd="/")
    before = file.read_text()
    assert "is there already" in methodbench("init", tiny_bert, table, "--out", file, status=2)
    assert file.read_text() == before


def test_what_cannot_run_is_not_written(tiny_bert, tmp_path):
    (tmp_path / "words.txt").write_text("\n\n".join(f"Passage number {i} is about {i * i}." for i in range(400)))
    said = methodbench("init", tiny_bert, "words.txt", cwd=tmp_path, status=2)
    assert "words.txt seems to be for causal_lm, and no recipe can run" in said
    assert "reads in both directions" in said
    assert "nothing.csv: no such file" in methodbench("init", tiny_bert, "nothing.csv", cwd=tmp_path, status=2)
    assert not list(tmp_path.glob("*.toml"))


def test_a_usual_name_tells_the_label_from_other_columns_that_repeat(table):
    found = look(table)  # `from` has fewer values
    assert (found.kind, found.text, found.label, found.classes) == ("classification", "body", "kind", 3)


def test_json_lines_and_texts_alone(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text(
        "\n".join(json.dumps({"n": i, "body": row["body"], "stars": i % 5}) for i, row in enumerate(rows()))
    )
    assert (look(file).kind, look(file).text, look(file).label) == ("classification", "body", "stars")
    file.write_text("\n".join(json.dumps({"n": i, "body": row["body"]}) for i, row in enumerate(rows())))
    assert (look(file).kind, look(file).text, look(file).label) == ("causal_lm", "body", None)


@pytest.mark.parametrize("length", [10, 200, 5000])
def test_the_length_has_room_for_most_texts(tmp_path, length):
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(json.dumps({"text": f"{i:0{length}d}", "label": f"{i % 2}"}) for i in range(100)))
    assert look(file).max_length == {10: 16, 200: 64, 5000: 256}[length]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "", "it is not a table"),
        ("a.csv", 'a,b\n1,2,3\n1,"2\n', "it is not a table"),
        ("a.jsonl", "[1]\n{", "it is not a table"),
        ("a.jsonl", '{"n": 1}\n{"n": 2}\n', "no column holds a text"),
        ("a.parquet", "x", "it is not a table"),
        ("a.xlsx", "x", "not read; give it as .csv, .tsv, .jsonl, .parquet, .arrow or .txt"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(TaskError, match=says):
        look(tmp_path / name)


def test_a_column_of_numbers_with_a_usual_name_is_a_regression(tmp_path):
    (tmp_path / "a.csv").write_text(
        "text,score,n\n" + "".join(f"text {n} of many,{n * 0.37:.2f},{n}\n" for n in range(60))
    )
    found = look(tmp_path / "a.csv")
    assert (found.kind, found.text, found.label, found.classes) == ("regression", "text", "score", 0)
