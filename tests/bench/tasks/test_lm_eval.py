"""Which tasks of lm-eval a suite names, and what is wrong with them, before anything runs."""

import importlib.util
import subprocess
import sys

import pytest

from bench.machine import machine
from bench.plan import plan
from bench.suite.suite import SuiteError, of
from bench.tasks import lm_eval
from bench.testing import jobs

INSTALLED = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs lm-eval")


def test_names_are_read_from_the_suites_key():
    assert lm_eval.names_in("lm-eval:hellaswag, gsm8k") == ("hellaswag", "gsm8k")
    assert lm_eval.names_in(True) == lm_eval.names_in(False) == ()


@pytest.mark.parametrize("value", ["hellaswag", "lm-eval:", "lm-eval:a,,b", "lm-eval:a,a", 3])
def test_another_value_is_told_with_an_example(value):
    with pytest.raises(SuiteError, match=r'measure\.quality: true, false, or "lm-eval:"'):
        of({"model": "minilm", "task": "stdlib-topics", "recipes": {"r": "full"}, "measure": {"quality": value}})


def planned(model, folder, quality, task=None):
    suite = of(
        {
            "model": str(model),
            "task": (task or jobs.prose(folder)).model_dump(),
            "recipes": {"r": "full"},
            "measure": {"quality": quality},
        }
    )
    return plan.make(suite, folder, machine.look("cpu", 1))


def written(folder):
    (folder / "mine.jsonl").write_text('{"question": "a", "answer": 0}')
    (folder / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: {test: mine.jsonl}}\n"
    )


def test_where_it_is_not_installed_the_command_is_told(tiny_llama, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lm_eval" else find(name))
    with pytest.raises(SuiteError, match=r'measure.quality: it needs lm-eval: pip install -e "\.\[lm-eval\]"'):
        planned(tiny_llama, tmp_path, "lm-eval:hellaswag")


@INSTALLED
def test_tasks_groups_and_tags_of_its_own_and_beside_the_suite_are_known(tmp_path):
    written(tmp_path)
    assert lm_eval.problems(["hellaswag", "mmlu", "gsm8k", "mine"], tmp_path) == []


@INSTALLED
@pytest.mark.timeout(120)
def test_an_unknown_task_is_told_with_the_nearest(tmp_path):
    written(tmp_path)
    assert lm_eval.problems(["hellaswagg", "mine"], tmp_path) == [
        "lm-eval has no task `hellaswagg`; did you mean `hellaswag`?"
    ]


@INSTALLED
def test_a_model_that_does_not_write_is_refused(tiny_bert, tmp_path):
    written(tmp_path)
    with pytest.raises(SuiteError, match="lm-eval scores models that write, and one for data, a classification task"):
        planned(tiny_bert, tmp_path, "lm-eval:mine", jobs.table(tmp_path))


@INSTALLED
def test_the_names_and_what_their_files_name_decide_what_a_stage_is(tiny_llama, tmp_path):
    written(tmp_path)

    def ids(quality="lm-eval:mine"):
        return set(planned(tiny_llama, tmp_path, quality).nodes)

    first = ids()
    assert ids() == first != ids("lm-eval:hellaswag")
    (tmp_path / "other.jsonl").write_text("{}")
    assert ids() == first
    (tmp_path / "mine.jsonl").write_text('{"question": "b", "answer": 0}')
    assert ids() != first
    (tmp_path / "mine.yaml").write_text((tmp_path / "mine.yaml").read_text() + "process_docs: !function own.clean\n")
    third = ids()
    (tmp_path / "own.py").write_text("def clean(docs): return docs")
    assert ids() != third


@INSTALLED
def test_planning_imports_no_torch(tmp_path):
    written(tmp_path)
    code = (
        "import sys; from pathlib import Path; from bench.tasks import lm_eval; "
        f"assert not lm_eval.problems(['hellaswag', 'mine'], Path({str(tmp_path)!r})); "
        f"lm_eval.fingerprint(['mine'], Path({str(tmp_path)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
