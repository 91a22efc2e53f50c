import json

import pytest

from bench.compare.compare import compare
from reports import figures
from tests import synthetic


@pytest.fixture(scope="module")
def comparison():
    (found,) = compare(synthetic.records())
    return found


@pytest.fixture(scope="module")
def drawings(comparison):
    return figures.drawings(comparison)


def test_all_that_has_something_to_show_is_drawn(drawings):
    assert [drawing.title for drawing in drawings] == [
        "Accuracy: how much each recipe differs from the baseline",
        "Accuracy and training throughput",
        "Accuracy and training memory",
        "Accuracy and latency 1×16",
        "Accuracy and inference memory",
        "Accuracy and size on disk",
        "Training memory, by what holds it",
        "Time of one seed, by what it was spent on",
        "Training loss",
        "Accuracy after each stage",
    ]


def test_every_figure_keeps_to_the_schema_and_draws(drawings):
    import altair
    import vl_convert

    for drawing in drawings:
        altair.LayerChart.from_dict(dict(drawing.spec))
        svg = vl_convert.vegalite_to_svg(json.dumps({**drawing.spec, "width": 460}))
        assert svg.count("<path") > 10
        assert "NaN" not in svg
        assert "undefined" not in svg


def test_figures_name_no_address(drawings):
    assert all("http" not in json.dumps(drawing.spec) for drawing in drawings)


def test_the_runtime_is_whole():
    runtime = figures.runtime()
    assert "</script" not in runtime.lower()
    assert "window.vegaEmbed" in runtime
