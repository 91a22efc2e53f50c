import base64
import gzip
import json
import re
import tomllib
from html.parser import HTMLParser

import pytest

from bench.compare.compare import compare
from bench.metrics.registry import metrics
from reports import figures, model, render_comparisons, words
from reports.drawing import Drawing
from tests import synthetic
from tests.synthetic import Method

EVIL = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> \"'&"


class Page(HTMLParser):
    """What a browser would make of it: elements with attributes, text outside scripts, scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self.scripts, self._inside = [], [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag in ("script", "style"):
            self._inside.append(tag)
            self.scripts.append((dict(attributes).get("type"), ""))

    def handle_endtag(self, tag):
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data):
        if self._inside:
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)
        else:
            self.words.append(data)

    @property
    def specs(self):
        return [each for each in self.embedded if "datasets" in each]

    @property
    def data(self):
        return next(each for each in self.embedded if "views" in each)

    @property
    def embedded(self):
        return [json.loads(text) for kind, text in self.scripts if kind == "application/json"]


def rendered(found):
    return render_comparisons(found, "html")


@pytest.fixture(scope="module")
def page():
    return Page(rendered(compare(synthetic.records(contended=("ia3",)))))


@pytest.fixture
def quick(monkeypatch):
    """Without the runtime and the static figures, whose making takes seconds."""
    monkeypatch.setattr(figures, "runtime", lambda: "/* runtime */")
    monkeypatch.setattr(Drawing, "svg", lambda self: "<svg></svg>")
    return lambda *found, **options: Page(rendered(compare(synthetic.records(*found, **options))))


def test_what_became_of_the_texts_is_said(page):
    assert (
        "Data: 2,900 texts read; 1,974 in train, 286 in validation, 560 in test; left out 60 equal to another"
        in page.text
    )


def test_nothing_is_loaded_from_anywhere(page):
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)
    css = "".join(text for kind, text in page.scripts if kind is None and ":root" in text)
    assert "@import" not in css
    assert "url(" not in css


def test_the_page_itself_forbids_the_network(page):
    (policy,) = (a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "connect-src" not in policy


def test_the_runtime_is_packed_inside(page):
    (packed,) = (text for kind, text in page.scripts if kind == "text/plain")
    assert gzip.decompress(base64.b64decode(packed)).decode() == figures.runtime()


def test_scripts_are_ours_alone(page):
    kinds = [kind for kind, text in page.scripts]
    assert kinds.count("application/json") == len(page.specs) + 1 == 7
    assert len(kinds) - 7 == 3  # the style, the runtime, the page's own


def test_without_scripts_each_figure_is_there(page):
    assert sum(tag == "svg" for tag, _ in page.elements) == 6
    drawn = [a for tag, a in page.elements if tag == "svg"]
    assert all(svg["role"] == "img" and len(svg["aria-label"]) > 60 for svg in drawn)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_the_header_says_what_was_run_and_where(page):
    for said in (
        "Model minilm",
        "Test items 560",
        "Seeds 3 (0, 1, 2)",
        "Intel Xeon Platinum 8481C, 4 cores, 16.0 GB, 4 threads",
    ):
        assert said in page.text
    # 15 recipes of 3 seeds: one did not fit into memory, one was refused, and one diverged for one seed.
    assert "proved 38 of 38" in page.text


def test_a_run_whose_evidence_fails_is_not_proved(quick):
    records = synthetic.records({"full": Method("full"), "lora": Method("lora")})
    records.nodes["minilm/stdlib-topics/1/lora"]["status"] = "invalid"
    assert "proved 5 of 6" in Page(rendered(compare(records))).text


def test_the_suite_can_be_saved_and_run(quick):
    records = synthetic.records({"full": Method("full")}, title="One & more")
    records.runs[0]["suite"] = {
        "title": "One & more",
        "budget": {"steps": 40, "batch_size": 16},
        "recipes": {"full": "full"},
    }
    page = Page(rendered(compare(records)))
    (button,) = (a for _, a in page.elements if a.get("data-save") == "one-more.toml")
    assert tomllib.loads(button["data-text"]) == records.runs[0]["suite"]
    assert "methodbench run one-more.toml" in page.text
    assert "Training 40 steps × 16 items" in page.text


def test_numbers_of_the_page_are_those_of_the_comparison(page):
    (found,) = compare(synthetic.records(contended=("ia3",)))
    data = page.data
    assert [recipe["name"] for recipe in data["recipes"]] == [row.name for row in found.rows]
    for metric in found.metrics:
        for row, figure in zip(found.rows, data["figures"][metric.name], strict=True):
            assert (figure is None) == (metric.name not in row.figures)
            if figure:
                assert figure[0] == pytest.approx(row.figures[metric.name].value, rel=1e-5)
                assert figure[3] == str(row.figures[metric.name])


def test_each_recipe_can_be_the_baseline_and_all_is_compared_with_it(page):
    (found,) = compare(synthetic.records(contended=("ia3",)))
    assert list(page.data["views"]) == [row.name for row in found.rows if row.ok]
    against = {row.name: row for row in found.against("int8").rows}
    view = page.data["views"]["int8"]
    assert "Beside the baseline <b class=name>int8</b>" in view["answer"]
    for metric in ("accuracy", "size_on_disk"):
        for recipe, change in zip(page.data["recipes"], view["changes"][metric], strict=True):
            expected = against[recipe["name"]].changes.get(metric)
            assert (change and change[1:]) == (
                expected and [str(expected), words.between(expected), words.verdict(expected)]
            )


def test_with_many_recipes_only_the_suites_own_baseline_is_there(quick):
    methods = {"full": Method("full")} | {f"r{n}": Method(f"full(lr={n + 1})") for n in range(model.BASELINES)}
    assert list(quick(methods, seeds=(0, 1), items=20).data["views"]) == ["full"]


def test_a_hundred_recipes_take_at_most_two_megabytes():
    methods = {f"recipe {n}": Method(f"full(lr={n + 1})", 0.6 + n / 500) for n in range(100)}
    assert len(rendered(compare(synthetic.records(methods, seeds=(0, 1, 2), items=100))).encode()) < 2_000_000


def test_nothing_that_is_recorded_becomes_markup(quick):
    methods = {
        "full": Method("full"),
        EVIL: Method(f'lora(target="{EVIL}")'),
        "failed": Method("full(lr=2.0)", status="failed", reason=EVIL, log=f"line\n{EVIL}"),
        "refused": Method("int8", refused=(EVIL,)),
    }
    records = synthetic.records(methods, seeds=(0, 1), title=EVIL, subjects=[(EVIL, EVIL)])
    records.warnings.append(EVIL)
    for node in records.nodes.values():
        for claim in node.get("evidence") or []:
            claim |= {"text": EVIL, "seen": EVIL, "method": EVIL}
        if node.get("trust", {}).get("latency"):
            node["trust"]["latency"] = {"contended": True, "reason": EVIL}
    records.runs[0]["environment"] = {EVIL: EVIL}
    records.runs[0]["suite"] = {EVIL: EVIL}
    page = Page(rendered(compare(records)))
    clean = quick(methods, seeds=(0, 1))
    assert [tag for tag, _ in page.elements if tag in ("script", "img")] == [
        tag for tag, _ in clean.elements if tag in ("script", "img")
    ]
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert page.text.count("alert(1)") > 10
    names = {point["name"] for spec in page.specs for point in spec["datasets"].get("recipes", [])}
    assert EVIL in names


def test_the_answer_comes_before_the_table_and_the_figures(page):
    assert (
        page.text.index("Beside the baseline")
        < page.text.index("how much each recipe differs from the baseline")
        < page.text.index("Best is top right")
        < page.text.index("What fits")
        < page.text.index("All recipes")
        < page.text.index("Without a full result")
        < page.text.index("Where the cost goes")
        < page.text.index("Training loss", page.text.index("Where the cost goes"))
        < page.text.index("Compression")
        < page.text.index("Two recipes side by side")
        < page.text.index("Recipe by recipe")
        < page.text.index("Method")
    )


def test_the_baselines_row_is_the_first(page):
    rows = [attributes for tag, attributes in page.elements if tag == "tr" and "class" in attributes]
    assert rows[0]["class"] == "baseline"
    assert not any("baseline" in row["class"] for row in rows[1:])


def test_verdicts_are_words_and_not_colours_alone(page):
    for verdict in ("better", "worse", "same", "not settled"):
        assert verdict in page.words
    assert "0.31×" in page.words


def test_one_seed_says_no_interval(quick):
    text = quick(seeds=(0,)).text
    assert "no interval" in text
    assert "training noise is not covered" in text


def test_every_recipe_without_a_result_has_its_reason_and_log(page):
    section = page.text[page.text.index("Without a full result") : page.text.index("Recipe by recipe")]
    assert "seed 1: diverged in full(lr=0.1) the loss is nan at step 17 of 60" in section
    assert "seeds 0, 1, 2: oom" in section
    assert "MemoryError: process used 4.1 GB of the 4.0 GB it may use" in section
    assert "this machine has 0" in section


def test_contended_timings_are_marked(page):
    marks = [attributes for tag, attributes in page.elements if attributes.get("class") == "busy"]
    assert marks
    assert all("CPU time was 61 % of wall time" in mark["title"] for mark in marks)


def test_a_quiet_run_has_no_marks(quick):
    assert not any(a.get("class") == "busy" for _, a in quick().elements)


def test_every_metric_shown_is_defined(page):
    for name in ("accuracy", "train_tokens_per_second", "train_peak_bytes", "size_on_disk"):
        assert metrics()[name].formula in page.text


def test_evidence_is_there_and_a_failed_claim_says_so(quick):
    page = quick({"full": Method("full")})
    assert "✓ held 3 of 3 full : the trained weights changed 101 of 103 tensors differ" in page.text


def test_a_failed_claim_says_what_was_seen(quick):
    records = synthetic.records({"full": Method("full"), "lora": Method("lora")})
    bad = records.nodes["minilm/stdlib-topics/1/lora"]
    bad["status"] = "invalid"
    bad["evidence"][1] |= {"holds": False, "seen": "3 of 101 changed"}
    text = Page(rendered(compare(records))).text
    assert "✗ failed 1 of 3 lora : every other weight is bit-identical 3 of 101 changed" in text


def test_settings_of_the_environment_are_listed(page):
    assert "machine · cpu Intel Xeon Platinum 8481C" in page.text
    assert "machine · versions · torch 2.13.0+cpu" in page.text


def test_several_comparisons_share_one_page_and_one_runtime(quick):
    page = quick(subjects=[("minilm", "a"), ("minilm", "b")])
    assert sum(kind == "text/plain" for kind, _ in page.scripts) == 1
    assert [a["href"] for tag, a in page.elements if tag == "a"][:2] == ["#c0", "#c1"]
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for tag, a in page.elements if tag == "a"} <= set(ids)


def test_a_folder_without_comparisons_still_gives_a_page():
    assert "Nothing is recorded here yet." in Page(rendered([])).text


def test_nothing_measured_is_a_page_too(quick):
    methods = {"a": Method("full", refused=("no",)), "b": Method("int8", refused=("no",))}
    assert "No recipe gave a result for every seed." in quick(methods).text


def test_long_logs_are_cut_to_their_end():
    log = "\n".join(f"line {i}" for i in range(1000))
    tail = words.tail(log).splitlines()
    assert tail[-1] == "line 999"
    assert len(tail) == words.LOG_LINES


def test_the_quality_after_each_stage_of_a_chain_is_there():
    text = rendered(compare(synthetic.compressed({"int8": 0.5})))
    assert text.count("<caption>Quality after each stage</caption>") == 1


def test_what_each_process_held_is_there():
    text = rendered(compare(synthetic.divided()))
    assert text.count("<caption>What each process held and sent</caption>") == 1
    part = text[text.index("<caption>What each process held and sent</caption>") :]
    first, second = (f'<th scope="row">{rank}</th>' for rank in (0, 1))
    assert part.index(first) < part.index("3.00 MB") < part.index(second) < part.index("2.00 MB")


def test_a_name_without_a_space_pushes_nothing_sideways(quick):
    name = "x" * 300
    methods = {name: Method(name), "b": Method(f"b({name})", status="oom", reason=name)}
    page = quick(methods, title=name)
    css = "".join(text for kind, text in page.scripts if kind is None and ":root" in text)
    (breaks,) = re.findall(r"([^{}/]*)\{ overflow-wrap: anywhere; \}", css)
    covered = {part.strip().rpartition(" ")[2] for part in breaks.split(",")}
    inside = []

    class Finder(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag not in ("meta", "br"):
                inside.append({tag, *(f".{each}" for each in (dict(attributes).get("class") or "").split())})

        def handle_endtag(self, tag):
            inside.pop()

        def handle_data(self, data):
            if name in data and not {"title", "script"} & set().union(*inside):
                assert covered & set().union(*inside), inside[-3:]
                seen.append(data)

    seen = []
    Finder().feed(rendered(compare(synthetic.records(methods, title=name))))
    assert len(seen) > 10
