"""Whatever is in a record's texts is shown as text in every format, and whatever is missing leaves a sensible report."""

import csv
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

import reports
from reports import figures, site, tex
from tests import synthetic
from tests.synthetic import Method

KINDS = {
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)>&amp;",
    "quotes": "\"'`´ ''' \"\"\" ```",
    "long": "x" * 10_000,
    "right to left": "שלום مرحبا",
    "overridden": "a\u202eb\u2066c",
    "markdown": "# *a* _b_ [c](http://d) | e `f` ~~g~~ ![h](i) $j$ <!-- k --> \\| https://l.org",
    "lists": "1. a - b",
    "formula": "=HYPERLINK(1)",
    "formula after a tab": "\t=1+1",
    "formula after a return": "\r@SUM(A1)",
    "plus": "+1",
    "minus": "-1+1|cmd",
    "latex": "\\input{/etc/passwd} $x_1^2$ & 5 % # ~ {} \\\\ \\end{tabular}",
    "terminal": "\x1b[2J\x1b]0;title\x07\x9b31mred\x00",
    "template": "{{ 7 * 7 }} {% raw %} ${7*7}",
    "rich": "[red]a[/red] [link=http://b]c[/link] :smile:",
}


def shown(text):
    """What a record's `text` is once it is read: without what commands a terminal or turns the direction."""
    text = re.sub(r"\x1b\[2J|\x1b\]0;title\x07", "", text)
    return re.sub(r"[\x00\x9b\u202a-\u202e\u2066-\u2069]", "\ufffd", text)


@pytest.fixture(autouse=True)
def no_runtime(monkeypatch):
    monkeypatch.setattr(figures, "runtime", lambda: "")


def folder_of(text, folder):
    """Records with `text` in every place that is someone's own."""
    methods = {
        "full": Method("full"),
        text: Method("lora(r=8)", 0.7, step=0.5),
        f"{text} lost": Method("ia3", status="failed", reason=text, log=text),
        f"{text} refused": Method("head", refused=(text,)),
    }
    found = synthetic.records(methods, (0, 1), [(text, text)], title=text, items=20, steps=4)
    found.runs[0]["environment"] = {"machine": {"cpu": text, text: text}}
    for node in found.nodes.values():
        node["absent"] = {"perplexity": text}
        for claim in node.get("evidence", []):
            claim["seen"] = text
    return synthetic.write(found, folder)


@pytest.fixture(params=KINDS)
def hostile(request, tmp_path):
    text = KINDS[request.param]
    return shown(text), folder_of(text, tmp_path / "in")


def flat(text):
    return " ".join(text.split())


class Page(HTMLParser):
    """The tags of a page, and its texts."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.handlers, self.texts = {}, [], []
        self.feed(page)
        self.text = flat("".join(self.texts))

    def handle_starttag(self, tag, attributes):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.handlers += [key for key, _ in attributes if key.startswith("on")]

    def handle_data(self, data):
        self.texts.append(data)


def test_html(hostile, tmp_path):
    text, folder = hostile
    page = Page(reports.render(folder, "html"))
    plain = Page(reports.render(folder_of("plain", tmp_path / "plain"), "html"))
    assert (set(page.tags), page.handlers) == (set(plain.tags), plain.handlers)
    assert page.tags["script"] == plain.tags["script"]
    assert flat(text) in page.text


def test_site(hostile, tmp_path):
    text, folder = hostile
    page = Page(site.build([folder], tmp_path / "site")[0].read_text(encoding="utf-8"))
    plain = site.build([folder_of("plain", tmp_path / "plain")], tmp_path / "other")[0].read_text(encoding="utf-8")
    assert (set(page.tags), page.handlers) == (set(Page(plain).tags), [])
    assert flat(text) in page.text


def test_markdown(hostile):
    text, folder = hostile
    whole = reports.render(folder, "md")
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(whole)
    inline = [child for token in tokens for child in token.children or []]
    assert {token.type for token in inline} <= {"text", "code_inline", "strong_open", "strong_close", "text_special"}
    ours = re.compile(r"<details><summary>(?:[^<&]|&lt;|&gt;|&amp;|&quot;)*</summary>\n|</details>\n")
    assert all(ours.fullmatch(token.content) for token in tokens if token.type == "html_block")
    kinds = {token.type for token in tokens}
    assert not kinds & {"code_block", "ordered_list_open", "hr", "blockquote_open"}
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h1"]
    # A table's cells are a row's, whatever is in them.
    rows = whole.count("\n| `") + whole.count("\n| --- ")
    assert rows == 5 + whole.count("\n| --- ") - 1
    (title,) = [tokens[at + 1] for at, token in enumerate(tokens) if token.type == "heading_open"]
    assert flat("".join(child.content for child in title.children)) == flat(text)
    names = [token.content for token in inline if token.type == "code_inline"]
    assert flat(text) in list(map(flat, names))
    assert flat(text) in flat("".join(child.content for child in inline if child.type != "code_inline"))


@pytest.mark.parametrize("format", ["csv", "parquet", "json"])
def test_tables_for_programs(hostile, tmp_path, format):
    text, folder = hostile
    if format == "csv":
        table = list(csv.DictReader(io.StringIO(reports.render(folder, "csv"), newline="")))
        cells = [cell for row in table for cell in row.values()]
        assert None not in cells
        assert not [
            cell for cell in cells if cell.lstrip().startswith(("=", "+", "@")) or re.match(r"\s*-\D|\s*-1\+", cell)
        ]
        text = f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text
    elif format == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        table = parquet.read_table(*reports.write(folder, ["parquet"], tmp_path)).to_pylist()
    else:
        found = json.loads(reports.render(folder, "json"))
        table = [{**recipe, "reasons": "; ".join(recipe["reasons"])} for recipe in found["recipes"]]
    assert (
        {row["title"] for row in table} == {row["model"] for row in table} == {row["task"] for row in table} == {text}
    )
    assert {"full", text, f"{text} lost", f"{text} refused"} == {row["name"] for row in table}
    assert text in [row["reasons"] for row in table if row["status"] == "failed"]


def test_table(hostile):
    text, folder = hostile
    page = reports.render(folder, "table")
    assert max(map(len, page.splitlines())) <= 80 + 3  # ⚠ and the like take a column more than a sign
    assert not set(page) & {chr(code) for code in (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F))}
    assert re.sub(r"[`\s]", "", text) in re.sub(r"[`\s]", "", page)


def test_latex(hostile, tmp_path):
    text, folder = hostile
    page = reports.render(folder, "tex")
    assert page.count(r"\begin{tabular}") == page.count(r"\end{tabular}") == 1
    assert r"\input" not in page
    if len(text) < 40:
        assert tex.plain(text) in page
    if not shutil.which("pdflatex"):
        pytest.skip("pdflatex is not here to compile it; test_tex.py holds the escapes")
    (tmp_path / "a.tex").write_text(
        rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{page}\end{{document}}", encoding="utf-8"
    )
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-1000:]


@pytest.mark.parametrize("hostile", ["html", "quotes", "long", "right to left"], indirect=True)
def test_figures(hostile, tmp_path):
    text, folder = hostile
    for path in reports.write(folder, ["svg"], tmp_path):
        assert re.fullmatch(r"figure-[a-z0-9-]{1,200}\.svg", path.name)
        root = ElementTree.fromstring(path.read_bytes())
        assert "script" not in {element.tag.rpartition("}")[2] for element in root.iter()}
        texts = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
        assert any(flat(text)[:10] in flat(each) for each in texts), path.name


# -- what is missing, or no number ---------------------------------------------------------------------------


def damaged(value):
    """Records in which `value` stands for a measured figure."""
    found = synthetic.records({"full": Method("full"), "lora": Method("lora(r=8)")}, (0, 1), items=20, steps=4)
    for node in found.nodes.values():
        if "lora" in node["id"]:
            node["quality"]["metrics"]["accuracy"] = value
            node["training"]["losses"][-1] = value
            node["inference"] = {"peak_bytes": value}
    return found


def of(methods, seeds=(0, 1), items=20):
    return synthetic.records(methods, seeds, items=items, steps=4)


BROKEN = Method("lora", status="failed", reason="it broke")
MISSING = {
    "nan": lambda: damaged(float("nan")),
    "infinity": lambda: damaged(float("inf")),
    "one record": lambda: of({"full": Method("full")}, (0,)),
    "all failed": lambda: of({"full": Method("full", status="oom", reason="needed more"), "lora": BROKEN}),
    "all refused": lambda: of({"full": Method("full", refused=("no",)), "lora": Method("lora", refused=("no",))}),
    "the baseline failed": lambda: of({"full": Method("full", status="oom", reason="needed more"), "lora": Method("lora")}),
    "one seed": lambda: of({"full": Method("full"), "lora": Method("lora(r=8)", 0.7)}, (0,)),
    "no test items": lambda: of({"full": Method("full"), "lora": Method("lora(r=8)", 0.7)}, items=0),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", MISSING)
@pytest.mark.parametrize("format", [*reports.FORMATS, *reports.FILES, "site"])
def test_a_report_of_little_is_sensible(format, kind, tmp_path):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    folder = synthetic.write(MISSING[kind](), tmp_path / "in")
    if format == "site":
        written = site.build([folder], tmp_path / "out")
    else:
        written = reports.write(folder, [format], tmp_path / "out")
    assert written or format in ("svg", "pdf", "png")
    for path in written:
        assert path.stat().st_size
        if format in ("pdf", "png", "parquet"):
            assert path.read_bytes()[:4] in (b"%PDF", b"\x89PNG", b"PAR1")
            continue
        text = path.read_text(encoding="utf-8")
        assert format in ("svg", "site") or "full" in text
        assert not re.search(
            r"\b(?:nan|NaN|inf|Infinity|None|undefined)\b",
            re.sub(r"base64,[^)]*|<script.*?</script>", "", text, flags=re.DOTALL),
        )
