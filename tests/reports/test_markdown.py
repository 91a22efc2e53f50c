import re

import pytest

from bench.compare.compare import compare
from reports import render_comparisons, sentences
from reports.markdown import plain
from tests import synthetic
from tests.synthetic import Method


def rendered(found):
    return render_comparisons(found, "md")


def render(*arguments, **options):
    return rendered(compare(synthetic.records(*arguments, **options)))


def cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_every_row_has_as_many_cells_as_its_head():
    for table in re.findall(r"(?:^\|.*\n)+", render(), re.MULTILINE):
        lines = table.splitlines()
        assert {len(cells(line)) for line in lines} == {len(cells(lines[0]))}


def test_pipes_and_markup_in_names_are_text():
    name = "a|b <script>alert(1)</script> *bold* [x](y)"
    text = render({"full": Method("full"), name: Method("lora", refused=("needs | a <b>",))})
    (short, whole) = [line for line in text.splitlines() if line.startswith(("| `a", "| a"))]
    assert cells(short)[0] == "`a\\|b <script>alert(1)</script> *bold* [x](y)`"  # inside code it is text
    assert cells(whole)[0] == "a\\|b &lt;script&gt;alert(1)&lt;/script&gt; \\*bold\\* \\[x\\](y)"
    assert "needs | a &lt;b&gt;" in text


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("# a", "\\# a"),
        ("a ##", "a \\##"),
        ("1. a", "1\\. a"),
        ("- a", "\\- a"),
        ("---", "\\---"),
        ("~~a~~ $b$", "\\~\\~a\\~\\~ \\$b\\$"),
        ("https://a.org www.a.org", "https\\://a.org www\\.a.org"),
        ("a\n\n    b", "a b"),
        ("0.757 ± 0.011", "0.757 ± 0.011"),
        ("-5 %, C#, #5", "-5 %, C#, #5"),
    ],
)
def test_markdown_in_a_text_is_text(text, markdown):
    assert plain(text) == markdown


def test_the_answer_and_one_table_are_open_and_all_else_is_folded():
    open_ = re.sub(r"<details>.*?</details>", "", render(), flags=re.DOTALL)
    head, _, *rest = [line for line in open_.splitlines() if line.startswith("| ")]
    assert len(cells(head)) == 7
    assert len(rest) == len(synthetic.METHODS)
    refused = "refused: data\\_parallel: 2 processes on cuda need 2 GPUs, this machine has 0"
    assert cells(rest[-1])[:2] == ["`two GPUs`", refused]
    assert cells(rest[-3])[1].startswith("diverged (2 of 3 seeds ok): the loss is nan at step 17 of 60; 0.754 ± 0.125")
    assert open_.count("\n- ") == len(sentences.headline(compare(synthetic.records())[0]))


def test_every_fold_is_closed_and_stands_alone():
    lines = render(contended=("ia3",)).splitlines()
    for number, line in enumerate(lines):
        if "details>" in line:
            assert not any(lines[number - 1 : number] + lines[number + 1 : number + 2])
    assert sum(line.startswith("<details>") for line in lines) == lines.count("</details>") >= 7


def test_the_baseline_comes_first_and_verdicts_are_words():
    rows = [line for line in render().splitlines() if line.startswith("| `")]
    assert rows[0].startswith("| `full` (baseline) | 0.757 ± 0.011 | 1,812 tokens/s | ")
    assert (rows[1].count(" same |"), rows[1].count(" not settled |"), rows[1].count(" worse |")) == (1, 3, 1)


def test_failures_have_their_reason_and_log_in_a_fence():
    log = "before\n```\n| not a table |\nafter"
    text = render({"full": Method("full"), "bad": Method("lora", status="failed", reason="it | broke", log=log)})
    assert f"````text\n{log}\n````" in text
    assert "seeds 0, 1, 2: **failed** in `lora`: it | broke" in text


def test_contended_figures_are_marked():
    (row,) = [line for line in render(contended=("ia3",)).splitlines() if line.startswith("| `ia3`")]
    assert [("⚠" in cell) for cell in cells(row)] == [False, False, True, False, True, False, False]


def test_what_became_of_the_texts_is_a_line():
    line = (
        "Data: 2,900 texts read; 1,974 in train, 286 in validation, 560 in test; left out 60 equal to another, 12 equal to "
        "another but for white space, invisible characters or Unicode form, 8 with several labels."
    )
    assert line in render().splitlines()
    old = synthetic.records()
    del old.runs[0]["data"]
    assert "Data:" not in rendered(compare(old))


def test_metrics_evidence_and_environment_are_there():
    text = render()
    assert "right predictions over test items" in text
    assert "every other weight is bit-identical" in text
    assert "Intel Xeon Platinum 8481C" in text


def test_nothing_recorded_is_said():
    assert "Nothing is recorded here." in rendered([])


def test_the_quality_after_each_stage_of_a_chain_is_there():
    text = rendered(compare(synthetic.compressed({"int8": 0.5})))
    part = text[text.index("Quality after each stage</summary>") :]
    assert "| recipe | stage | Accuracy | Macro F1 | Agreement | KL divergence | Won | Lost |" in part
    assert "| int8 | int8 | " in part
    assert "Quality after each stage" not in rendered(compare(synthetic.records({"full": Method("full")})))


def test_what_each_process_held_is_there():
    text = rendered(compare(synthetic.divided()))
    part = text[text.index("What each process held and sent</summary>") :]
    assert "| recipe | process | " in part
    assert [line.split(" | ")[:2] for line in part.splitlines()[4:6]] == [["| pipeline", "0"], ["| pipeline", "1"]]
    assert "3.00 MB" in part.splitlines()[4]
    assert "2.00 MB" in part.splitlines()[5]
    assert "What each process" not in rendered(compare(synthetic.records({"full": Method("full")})))


def test_what_quality_is_to_be_seen_beside_is_a_line_under_the_table():
    lines = rendered(compare(synthetic.referenced())).splitlines()
    at = lines.index("For reference: chance 0.123, untrained 0.120.")
    assert lines[at - 2].startswith("| `two GPUs`")


def test_recipes_with_different_seeds_are_counted_from_the_fewest_to_the_most():
    records = synthetic.records({"full": Method("full"), "head": Method("head")}, seeds=range(5))
    (run,) = records.runs
    run["cells"] = [cell for cell in run["cells"] if cell["name"] == "full" or cell["seed"] < 3]
    assert "3 to 5 seeds (0, 1, 2, 3, 4)" in rendered(compare(records))


def test_a_run_that_measured_nothing_says_how_its_recipes_ended():
    found = synthetic.records({"full": Method("full"), "bad": Method("lora", status="oom", reason="needed more")}, (0,))
    for node in found.nodes.values():
        for part in ("quality", "training", "inference", "size", "weight_bytes", "parameters", "latency"):
            node.pop(part, None)
    rows = [line for line in rendered(compare(found)).splitlines() if line.startswith("| ")]
    assert rows[0] == "| recipe | result |"
    assert rows[2:4] == ["| `full` (baseline) | ok |", "| `bad` | oom: needed more |"]
