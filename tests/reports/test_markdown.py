import re

from bench.compare.compare import compare
from reports import render_comparisons
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
    assert "<script>" not in re.sub(r"`[^`]*`", "", text)  # inside code it is text
    (row,) = [line for line in text.splitlines() if line.startswith("| a\\|b")][:1]
    assert cells(row)[0] == "a\\|b &lt;script&gt;alert(1)&lt;/script&gt; \\*bold\\* \\[x\\](y)"
    assert "needs | a &lt;b&gt;" in text


def test_the_baseline_comes_first_and_verdicts_are_words():
    text = render()
    ranking = text[text.index("## Ranking") :].splitlines()
    assert ranking[6].startswith("| full (baseline) | ok | 0.757 ± 0.011 |")
    assert ranking[2].startswith("“Same” is within 1 point of quality")
    assert (ranking[7].count(" same |"), ranking[7].count(" not settled |"), ranking[7].count(" worse |")) == (1, 3, 1)


def test_failures_have_their_reason_and_log_in_a_fence():
    log = "before\n```\n| not a table |\nafter"
    text = render({"full": Method("full"), "bad": Method("lora", status="failed", reason="it | broke", log=log)})
    assert f"````text\n{log}\n````" in text
    assert "seeds 0, 1, 2: **failed** in `lora`: it | broke" in text


def test_contended_figures_are_marked():
    (row,) = [
        line for line in render(contended=("ia3",)).split("## Other")[0].splitlines() if line.startswith("| ia3 ")
    ]
    marked = [("⚠" in cell) for cell in cells(row)]
    assert marked == [False, False, False, True, False, True, False, False]


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
    part = text[text.index("## Quality after each stage") :]
    assert "| recipe | stage | Accuracy | Macro F1 | Agreement | KL divergence | Won | Lost |" in part
    assert "| int8 | int8 | " in part
    assert "Quality after each stage" not in rendered(compare(synthetic.records({"full": Method("full")})))


def test_what_each_process_held_is_there():
    text = rendered(compare(synthetic.divided()))
    part = text[text.index("## What each process held and sent") :]
    assert "| recipe | process | " in part
    assert [line.split(" | ")[:2] for line in part.splitlines()[4:6]] == [["| pipeline", "0"], ["| pipeline", "1"]]
    assert "3.00 MB" in part.splitlines()[4]
    assert "2.00 MB" in part.splitlines()[5]
    assert "What each process" not in rendered(compare(synthetic.records({"full": Method("full")})))


def test_what_quality_is_to_be_seen_beside_is_a_line_under_the_table():
    lines = rendered(compare(synthetic.referenced())).splitlines()
    at = lines.index("For reference: chance 0.123, untrained 0.120.")
    assert lines[at - 2].startswith("| two GPUs")


def test_recipes_with_different_seeds_are_counted_from_the_fewest_to_the_most():
    records = synthetic.records({"full": Method("full"), "head": Method("head")}, seeds=range(5))
    (run,) = records.runs
    run["cells"] = [cell for cell in run["cells"] if cell["name"] == "full" or cell["seed"] < 3]
    assert "3 to 5 seeds (0, 1, 2, 3, 4)" in rendered(compare(records))
