"""The page in a browser: opened from disk, without a network."""

import csv
import io
import tomllib
from pathlib import Path

import pytest

import reports
from bench.compare.compare import compare
from reports import render_comparisons, words
from tests import browser, synthetic

ARTEFACTS = Path("build/page")
"""Where screenshots are kept."""

SUITE = {"title": "Topics", "seeds": [0, 1, 2], "budget": {"steps": 60, "batch_size": 16}, "recipes": {"full": "full"}}


@pytest.fixture(scope="module")
def comparison():
    (found,) = compare(_records())
    return found


def _records():
    records = synthetic.referenced(contended=("ia3",))
    records.runs[0]["suite"] = SUITE
    for seed in (0, 1, 2):  # so that one recipe is the same as the baseline, and settled
        full, bf16 = (
            records.nodes[f"minilm/stdlib-topics/{seed}/{recipe}"]
            for recipe in ("full", 'full + mixed_precision("bf16")')
        )
        bf16["quality"] = full["quality"]
    return records


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_comparisons(compare(_records()), "html"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = browser.find()
    if path is None:
        pytest.skip("there is no Chromium here, and none could be installed")
    with sync_api.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def opened(chromium, file):
    """Opens the page; whatever its console says of errors fails the test."""
    contexts, said = [], []

    def opened(width=1280, *, path=file, scheme="light", ready=True, **options):
        context = chromium.new_context(
            offline=True, viewport={"width": width, "height": 900}, color_scheme=scheme, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda line: said.append(line.text) if line.type in ("error", "warning") else None)
        page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        page.goto(path.as_uri())
        if ready:
            page.evaluate(
                "ready.then(() => Promise.all(subjects.flatMap(s => Object.keys(s.plots).map(n => s.redraw(n)))))"
            )
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []


def rows(page):
    return page.locator(".ranking tbody tr:visible").evaluate_all("rows => rows.map(row => row.dataset.name)")


def expected(comparison, metric, *, down, baseline="full"):
    ok = [row for row in comparison.rows if row.ok and row.name != baseline and metric in row.figures]
    ok.sort(key=lambda row: row.figures[metric].value, reverse=down)
    return [baseline, *(row.name for row in ok)]


def cell(page, recipe, metric):
    return page.locator(f'.ranking tr[data-name="{recipe}"] td[data-m="{metric}"]')


def test_it_opens_from_disk_without_a_network_and_draws_every_figure(opened):
    page = opened()
    assert page.locator(".plot").count() == page.locator(".plot svg.marks").count() == 6


def test_a_heading_sorts_and_again_the_other_way(opened, comparison):
    page = opened()
    heading = page.get_by_role("button", name="Size on disk")
    heading.click()
    assert rows(page)[:10] == expected(comparison, "size_on_disk", down=False)[:10]
    assert page.locator("th[data-m=size_on_disk]").get_attribute("aria-sort") == "ascending"
    heading.click()
    assert rows(page)[0] == "full"
    assert rows(page)[1] == expected(comparison, "size_on_disk", down=True)[1]
    page.locator(".ranking thead").get_by_role("button", name="Recipe").click()
    assert [name for name in rows(page) if "lora" in name] == ["lora r=8", "lora r=64", "qlora"]
    assert rows(page)[1] == "bf16 full"
    assert set(rows(page)[-3:]) == {"adamw, lr too high", "ensemble of 8", "two GPUs"}


def test_sorting_needs_no_mouse_and_a_phone_has_a_list(opened, comparison):
    page = opened()
    page.get_by_role("button", name="Training memory").focus()
    page.keyboard.press("Enter")
    assert rows(page)[:5] == expected(comparison, "train_peak_bytes", down=False)[:5]
    phone = opened(390)
    phone.get_by_label("Sort by").select_option("size_on_disk")
    assert rows(phone)[:5] == expected(comparison, "size_on_disk", down=False)[:5]


def test_arrow_keys_move_over_the_cells_and_each_says_the_rest(opened, comparison):
    page = opened()
    cell(page, "full", "accuracy").focus()
    for key in ("ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    first = rows(page)[1]
    metric = comparison.mains[1]
    at = page.evaluate("[document.activeElement.parentNode.dataset.name, document.activeElement.dataset.m]")
    assert at == [first, metric.name]
    row = next(row for row in comparison.rows if row.name == first)
    tip = page.get_by_role("tooltip").inner_text()
    assert str(row.figures[metric.name]) in tip
    assert words.spelled(row.changes[metric.name]) in tip
    assert "exploratory" in tip
    page.keyboard.press("Escape")
    assert page.get_by_role("tooltip").count() == 0
    assert page.locator(".ranking td[tabindex='0']").count() == 1


def test_columns_can_be_chosen(opened, comparison):
    page = opened()
    page.locator("details.columns summary").click()
    page.get_by_role("checkbox", name="Size on disk").uncheck()
    page.get_by_role("checkbox", name="Macro F1").check()
    heads = page.locator(".ranking thead th").evaluate_all("heads => heads.map(head => head.dataset.m)")
    assert "size_on_disk" not in heads
    assert heads[-1] == "macro_f1"
    row = next(row for row in comparison.rows if row.name == "int8")
    assert words.middle(row.figures["macro_f1"]) in cell(page, "int8", "macro_f1").inner_text()


def test_chance_and_the_untrained_model_stand_below_the_recipes(opened):
    page = opened()
    foot = page.locator(".ranking tfoot tr")
    assert [foot.nth(n).locator("th").inner_text().split()[0] for n in (0, 1)] == ["chance", "untrained"]
    assert foot.first.locator("td[data-m=accuracy]").inner_text() == "0.123"
    page.locator("details.columns summary").click()
    page.get_by_role("checkbox", name="Macro F1").check()
    assert foot.first.locator("td[data-m=macro_f1]").inner_text() == "0.020"


def test_a_search_leaves_what_has_the_words(opened):
    page = opened()
    page.get_by_label("Search").fill("lora")
    assert sorted(rows(page)) == ["lora r=64", "lora r=8", "qlora"]


def test_costs_are_ratios_or_absolute(opened, comparison):
    page = opened()
    row = next(row for row in comparison.rows if row.name == "int8")
    ratio, absolute = str(row.changes["size_on_disk"]), words.middle(row.figures["size_on_disk"])
    text = cell(page, "int8", "size_on_disk")
    assert ratio in text.inner_text()
    assert absolute not in text.inner_text()
    page.get_by_role("button", name="absolute").click()
    assert absolute in text.inner_text()
    assert ratio not in text.inner_text()


def test_another_baseline_is_one_everywhere(opened, comparison):
    page = opened()
    page.get_by_label("Compare with").select_option("int8")
    against = {row.name: row for row in comparison.against("int8").rows}
    assert "Beside the baseline int8" in page.locator(".answer").inner_text()
    for name in ("full", "nf4", "head only"):
        change = against[name].changes["size_on_disk"]
        assert str(change) in cell(page, name, "size_on_disk").inner_text()
        assert change.verdict in cell(page, name, "size_on_disk").inner_text()
    assert rows(page)[0] == "int8"
    page.wait_for_function("subjects[0].plots.forest.view.data('recipes').every(point => point.name !== 'int8')")
    points = {p["name"]: p for p in page.evaluate("subjects[0].plots.forest.view.data('recipes')")}
    assert points["full"]["value"] == pytest.approx(100 * against["full"].changes["accuracy"].value)


def test_axes_can_be_chosen(opened, comparison):
    page = opened()
    page.locator("[data-x]").select_option("size_on_disk")
    page.locator("[data-y]").select_option("latency_1x16")
    page.wait_for_function("subjects[0].plots.tradeoff.querySelector('svg')?.textContent.includes('Size on disk')")
    points = {p["name"]: p for p in page.evaluate("subjects[0].plots.tradeoff.view.data('recipes')")}
    assert points.keys() == {row.name for row in comparison.rows if row.ok}
    row = next(row for row in comparison.rows if row.name == "qlora")
    assert points["qlora"]["x"] == pytest.approx(row.figures["size_on_disk"].value, rel=1e-5)
    assert points["qlora"]["y"] == pytest.approx(row.figures["latency_1x16"].value, rel=1e-5)
    assert "Best is bottom left" in page.locator("figure:has([data-figure=tradeoff]) figcaption").inner_text()
    page.get_by_label("against").select_option("tokens")
    page.wait_for_function("subjects[0].plots.losses.querySelector('svg')?.textContent.includes('tokens of training')")


def test_a_recipe_is_pinned_in_every_view(opened):
    page = opened()
    page.get_by_role("button", name="pin qlora").first.click()
    assert page.locator("tr.pinned").get_attribute("data-name") == "qlora"
    for name in ("forest", "tradeoff", "stages"):
        assert page.evaluate(f"subjects[0].plots.{name}.view.signal('pinned')") == ["qlora"]
    page.get_by_role("button", name="unpin qlora").click()
    assert page.locator("tr.pinned").count() == 0
    # A point of a plot does it too.
    page.evaluate(
        "(() => { const view = subjects[0].plots.forest.view; const find = item => item.datum?.name === 'int8' && item.mark?.marktype === 'symbol' ?"
        " item : (item.items ?? []).map(find).find(Boolean); const item = find(view.scenegraph().root);"
        " item._svg.dispatchEvent(new MouseEvent('click', { bubbles: true })); })()"
    )
    assert page.locator("tr.pinned").get_attribute("data-name") == "int8"


def test_limits_say_which_recipe_fits(opened, comparison):
    page = opened()
    form = page.locator("form.limits")
    form.get_by_label("Training memory at most").fill("400")
    form.get_by_label("Accuracy at least").fill("0.7")
    form.get_by_label("best in").select_option("size_on_disk")
    fitting = [
        row
        for row in comparison.rows
        if row.ok and row.figures["train_peak_bytes"].value <= 400e6 and row.figures["accuracy"].value >= 0.7
    ]
    best = min(fitting, key=lambda row: row.figures["size_on_disk"].value)
    said = page.get_by_role("status").inner_text()
    assert said.startswith(f"{len(fitting)} of {len(comparison.rows)} recipes fit. Best in size on disk: {best.name} ")
    assert page.locator("tbody tr:not(.out) th.who").count() == len(fitting)
    form.get_by_label("Accuracy at least").fill("0.99")
    assert page.get_by_role("status").inner_text() == "No recipe fits all of these limits."
    form.get_by_role("button", name="Clear").click()
    page.wait_for_function("!document.querySelector('tr.out')")


def test_two_recipes_stand_side_by_side(opened, comparison):
    page = opened()
    page.locator("[data-two]").first.select_option("int8")
    page.locator("[data-two]").last.select_option("nf4")
    change = next(row for row in comparison.against("int8").rows if row.name == "nf4").changes["size_on_disk"]
    line = page.locator(".two tbody tr", has=page.get_by_role("rowheader", name="Size on disk")).inner_text()
    assert words.spelled(change) in line
    assert change.verdict in line


def test_a_command_is_copied_and_files_are_saved(opened, comparison):
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy the command").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "methodbench run which-method-for-topics.toml"
    with page.expect_download() as suite:
        page.get_by_role("button", name="Save the suite file").click()
    assert suite.value.suggested_filename == "which-method-for-topics.toml"
    assert tomllib.loads(Path(suite.value.path()).read_text("utf-8")) == SUITE
    with page.expect_download() as figures:
        page.get_by_role("button", name="Save as CSV").click()
    table = {
        line["recipe"]: line for line in csv.DictReader(io.StringIO(Path(figures.value.path()).read_text("utf-8")))
    }
    assert float(table["int8"]["size_on_disk"]) == pytest.approx(58630500.0)
    assert table["two GPUs"]["status"] == "refused"


def test_a_link_to_a_recipe_opens_its_part(opened):
    page = opened()
    page.locator(".ranking").get_by_role("link", name="int8").click()
    assert page.get_by_text("Figures of int8").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_it_fits_and_is_accessible(opened, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = opened(width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if width > 760:
        assert page.evaluate("(table => table.scrollWidth <= table.clientWidth)(document.querySelector('.ranking'))")
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"{width}-{scheme}.png", full_page=True)
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    found = Axe().run(page).response["violations"]
    assert [
        (each["id"], each["impact"], each["nodes"][0]["html"][:200]) for each in found if each["impact"] != "minor"
    ] == []


def test_what_can_be_pressed_is_large_enough(opened):
    page = opened()
    sizes = page.locator(
        "button:visible, select:visible, input:not([type=checkbox]):visible, summary:visible"
    ).evaluate_all(
        "all => all.map(it => [it.outerHTML.slice(0, 80), it.getBoundingClientRect().width, it.getBoundingClientRect().height])"
    )
    assert [each for each in sizes if min(each[1:]) < 24] == []


def test_on_paper_it_has_the_table_and_the_figures(opened):
    page = opened()
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 less its margins, at 96 dpi
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator(".ranking tbody tr:visible").count() == 15
    assert page.evaluate("getComputedStyle(document.querySelector('.ranking table')).display") == "table"
    assert not page.get_by_label("Search").is_visible()
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTEFACTS / "print.png", full_page=True)
    assert page.pdf(path=ARTEFACTS / "print.pdf", format="A4").startswith(b"%PDF")


def test_without_scripts_it_is_whole(opened, comparison):
    page = opened(java_script_enabled=False, ready=False)
    assert page.locator(".plot svg").count() == 6
    assert "Accuracy and training throughput" in page.locator("main").inner_text()
    assert page.locator(".ranking tbody tr").count() == 15
    assert not page.get_by_label("Search").is_visible()
    assert words.middle(comparison.rows[0].figures["accuracy"]) in cell(page, "full", "accuracy").inner_text()


def test_without_vega_figures_stay_as_they_are(opened, tmp_path):
    folder = synthetic.write(_records(), tmp_path)
    (path,) = reports.write(folder, ["html"], tmp_path, static=True)
    page = opened(path=path, ready=False)
    page.wait_for_function("document.documentElement.classList.contains('static')")
    assert page.locator(".plot svg").count() == 6
    assert not page.locator("[data-x]").is_visible()
    assert not page.get_by_label("Compare with").is_visible()
    page.get_by_role("button", name="Size on disk").click()
    assert rows(page)[0] == "full"


def test_names_are_text_whatever_is_in_them(opened, tmp_path):
    evil = "</script><img src=x onerror=alert(1)>'\"`${alert(2)}\u202e" + "x" * 300
    methods = {evil: synthetic.Method("full"), "b": synthetic.Method("lora"), "=1+1": synthetic.Method("ia3")}
    path = tmp_path / "report.html"
    path.write_text(render_comparisons(compare(synthetic.records(methods)), "html"), encoding="utf-8")
    for width in (1024, 390):
        page = opened(width, path=path)
        assert page.locator("img").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_label("Compare with").select_option("b")
    assert page.locator("img").count() == 0
    with page.expect_download() as figures:
        page.get_by_role("button", name="Save as CSV").click()
    names = [line[0] for line in csv.reader(io.StringIO(Path(figures.value.path()).read_text("utf-8")))]
    assert evil in names
    assert "'=1+1" in names
