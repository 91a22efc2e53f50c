import re
import shutil
import subprocess

import pytest

from bench.compare.compare import compare
from reports import render_comparisons
from reports.tex import plain
from tests import synthetic
from tests.synthetic import Method

HOSTILE = "\\end{tabular} $x_1^2$ & 5 % # ~ {a} <b> \"c\" 'd' `e` -- | [f] É × −1 אב 中 \u2019"
ENGINES = [engine for engine in ("pdflatex", "lualatex", "xelatex", "tectonic") if shutil.which(engine)]


def render(*arguments, **options):
    return render_comparisons(compare(synthetic.records(*arguments, **options)), "tex")


def test_the_table_has_at_most_seven_columns_and_what_failed_comes_last():
    lines = [line for line in render().splitlines() if line.endswith(r"\\")]
    assert lines[0].startswith(r"recipe & \shortstack[r]{Accuracy} & \shortstack[r]{Training\\throughput} & ")
    assert lines[1].startswith(
        r"full (baseline) & 0.757 $\pm$ 0.011 & 1,812 tokens/s & 774 MB & ".replace(" (baseline)", "")
    )
    assert [line.count(" & ") for line in lines[:14]] == [6] * 14
    assert lines[-1] == (
        r"two GPUs & \multicolumn{6}{p{0.7\linewidth}}{refused: data\_parallel: 2 processes on cuda need 2 GPUs, this "
        r"machine has 0} \\"
    )
    assert r"0.77$\times$ $-$ &" in lines[2]


def test_every_sign_with_a_meaning_is_escaped():
    text = re.sub(
        r"\\(?:text[a-z]+\{\}|[{}$&#%_]|signof\{[0-9A-F]+\}|symbol\{34\})|\$\\?[a-z-]+\$|\{[-\[\]]\}",
        "",
        plain(HOSTILE),
    )
    assert not set(text) & set("\\{}$&#%_^~<>\"'`-|[]")


@pytest.mark.parametrize(
    "engine", [*ENGINES, *([] if ENGINES else [pytest.param("", marks=pytest.mark.skip("no LaTeX here"))])]
)
def test_it_compiles(engine, tmp_path):
    methods = {"full": Method("full"), HOSTILE: Method("lora", 0.7), "bad": Method("ia3", refused=(HOSTILE,))}
    text = render(methods, title=HOSTILE)
    (tmp_path / "a.tex").write_text(
        f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}{text}\\end{{document}}",
        encoding="utf-8",
    )
    options = [] if engine == "tectonic" else ["-interaction=nonstopmode", "-halt-on-error"]
    done = subprocess.run([engine, *options, "a.tex"], cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_nothing_recorded_is_a_head_alone():
    assert "tabular" not in render_comparisons([], "tex")


def test_a_run_that_measured_nothing_says_how_its_recipes_ended():
    found = synthetic.records({"full": Method("full"), "bad": Method("lora", status="oom", reason="needed more")}, (0,))
    for node in found.nodes.values():
        for part in ("quality", "training", "inference", "size", "weight_bytes", "parameters", "latency"):
            node.pop(part, None)
    text = render_comparisons(compare(found), "tex")
    assert r"full & \multicolumn{1}{p{0.7\linewidth}}{ok} \\" in text
    assert r"bad & \multicolumn{1}{p{0.7\linewidth}}{oom: needed more} \\" in text
