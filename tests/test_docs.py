"""What the documents show is what there is: code runs, and the files that a page builds are the example's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.testing import jobs

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "plugin"


def blocks(page: str) -> list[tuple[str, str]]:
    """Each block of code of a page: the words after the fence, and the code."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(r"^```(\w+[^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_page_for_python_runs_from_standard_input_too(tiny_bert, tmp_path):
    """As in a notebook, `__main__` has no file there."""
    code = "\n".join(code for words, code in blocks("python.md") if words == "python")
    data = jobs.table(tmp_path).model_dump(exclude_unset=True)
    code = code.replace('"minilm"', repr(str(tiny_bert))).replace('"stdlib-topics"', repr(data))
    done = subprocess.run(
        [sys.executable, "-"], input=code, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^full ok 0\.\d+", done.stdout, re.MULTILINE)
    assert "unknown method `lorra`; did you mean `lora`?" in done.stdout
    assert "2 stages to run, 0 recorded" in done.stderr


@pytest.mark.parametrize("file", ["pyproject.toml", "methodbench_l2sp.py", "tests/test_l2sp.py"])
def test_the_page_on_methods_builds_the_example(file):
    shown = [code for words, code in blocks("write-a-method.md") if words.endswith(f" {file}")]
    assert "\n".join(shown) == (EXAMPLE / file).read_text()


def test_the_page_on_methods_names_all_that_there_is_to_import():
    from bench import api

    page = (ROOT / "docs" / "write-a-method.md").read_text()
    assert not [name for name in api.__all__ if f"`{name}`" not in page]
