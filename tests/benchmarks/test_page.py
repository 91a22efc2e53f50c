"""How long the page takes to sort its table, in the browser."""

import pytest

from bench.compare.compare import compare
from reports import render_comparisons
from tests import browser, synthetic

ROWS = """number => {
  const subject = subjects[0], body = subject.table.tBodies[0], first = [...subject.rows];
  for (let n = first.length; n < number; n++) {
    const row = first[n % first.length].cloneNode(true); row.dataset.name += n; body.append(row); subject.rows.push(row);
  }
  return body.rows.length;
}"""


@pytest.mark.parametrize("number", [100, 1000])
def test_a_sort(number, benchmark, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = browser.find()
    if path is None:
        pytest.skip("there is no Chromium here, and none could be installed")
    file = tmp_path / "report.html"
    file.write_text(render_comparisons(compare(synthetic.records()), "html"), encoding="utf-8")
    with sync_api.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = running.new_page()
        page.goto(file.as_uri())
        assert page.evaluate(ROWS, number) == number
        benchmark(page.evaluate, "() => { subjects[0].sort('size_on_disk'); }")
        names = page.locator(".ranking tbody tr").evaluate_all("rows => rows.map(row => row.dataset.name)")
        assert names[0] == "full"
        assert len(names) == number
        running.close()
