from bench.compare.compare import compare
from reports import render_comparisons
from tests import synthetic
from tests.synthetic import Method


def rendered(found):
    return render_comparisons(found, "table")


def render(*arguments, **options):
    return rendered(compare(synthetic.records(*arguments, **options)))


def line(text, name):
    return next(line for line in text.splitlines() if line.startswith(name))


def test_it_fits_into_80_columns_with_a_row_a_recipe():
    text = render(contended=("ia3",))
    assert max(map(len, text.splitlines())) <= 80
    assert line(text, "nf4").endswith("0.58× ✓")
    assert "…" not in text


def test_the_baseline_is_the_first_row():
    lines = render().splitlines()
    head = next(i for i, text in enumerate(lines) if text.startswith("recipe "))
    assert lines[head + 1].split()[:2] == ["full", "ok"]


def test_verdicts_are_signs_with_a_legend():
    text = render()
    assert "1.73× ✗" in line(text, "int8 ")
    assert "0.751 ± 0.005 ? 1.00× =" in line(text, "int8 ")
    assert "✓ better" in text
    assert "= same" in text
    assert "“Same” is within 1 point of quality and 2 % of costs." in " ".join(text.split())


def test_failures_say_why():
    text = render()
    assert "oom ensemble of 8: needed more than 4.0 GB" in text
    assert "diverged (2 of 3 seeds ok) adamw, lr too high" in text


def test_names_are_not_taken_for_markup():
    text = render({"[red]x[/red]": Method("full"), "[/]": Method("lora", refused=("[bold]why",))})
    assert "[red]x[/red]" in text
    assert "refused [/]: lora" not in text
    assert "refused [/]: [bold]why" in text


def test_contended_ratios_are_marked():
    assert "⚠" in line(render(contended=("ia3",)), "ia3")
    assert "⚠" not in render()


def test_without_quality_the_column_is_left_out():
    records = synthetic.records()
    for node in records.nodes.values():
        node["quality"] = None
    text = rendered(compare(records))
    assert "accuracy" not in text
    assert "0.31× ✓" in line(text, "qlora")


def test_of_compression_it_shows_what_was_lost_and_gained_in_80_columns():
    text = rendered(compare(synthetic.compressed({"int8": 0.5, "half": 1.5})))
    assert max(map(len, text.splitlines())) <= 80
    head = next(line for line in text.splitlines() if line.startswith("recipe"))
    assert head.split() == ["recipe", "status", "accuracy", "gence", "latency", "gain", "size"]
    assert "0.500×" in line(text, "int8 ")
    assert "0.0123" in line(text, "half")
    assert "divergence, gain: from the model that it was made from" in " ".join(text.split())


def test_what_quality_is_to_be_seen_beside_is_a_line_under_the_table():
    lines = rendered(compare(synthetic.referenced())).splitlines()
    assert "For reference: chance 0.123, untrained 0.120." in lines
    assert lines[lines.index("For reference: chance 0.123, untrained 0.120.") - 1].startswith("two GPUs")
    assert "For reference" not in render()


def test_a_run_that_added_seeds_says_so():
    records = synthetic.records(seeds=range(5))
    records.runs[0]["settle"] = {"looks": [3, 5, 8, 12, 18]}
    text = " ".join(rendered(compare(records)).split())
    assert "Seeds were added to what was not settled: the 5 % are those of all 5 looks together." in text
    assert "Seeds were added" not in " ".join(render().split())
