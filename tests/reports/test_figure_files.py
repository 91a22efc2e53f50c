import base64
import io
import re
import struct

import pytest

import reports
from bench.compare.compare import compare
from reports import figure_files, figures
from tests import synthetic


@pytest.fixture(scope="module")
def specs():
    (found,) = compare(synthetic.records())
    return [drawing.spec for drawing in figures.drawings(found)]


def test_files_are_called_as_the_figures_are(tmp_path):
    folder = synthetic.write(synthetic.records(), tmp_path / "in")
    written = reports.write(folder, ["svg"], tmp_path)
    titles = [figure_files._slug(drawing.title) for drawing in figures.drawings(compare(synthetic.records())[0])]
    assert [path.name for path in written] == [f"figure-{title}.svg" for title in titles]
    assert sorted(path.name for path in tmp_path.glob("*.*")) == sorted(path.name for path in written)


def test_figures_of_several_comparisons_have_names_of_their_own(tmp_path):
    subjects = [("m", "a b"), ("m", "a-b"), ("m", "../c")]
    found = compare(synthetic.records({"full": synthetic.Method("full")}, (0,), subjects, title="T"))
    files = figure_files.Files(found, tmp_path, "svg", 3.3)
    for each in found:
        files.add(each)
    losses = [path.name for path in files.written if "training-loss" in path.name]
    assert losses == [f"figure-training-loss-t-m-{end}.svg" for end in ("a-b", "a-b-2", "c")]
    assert len({path.name for path in files.written}) == len(files.written)


@pytest.mark.parametrize("inches", figure_files.WIDTHS)
def test_a_figure_is_as_wide_as_a_column(specs, inches):
    for spec in specs:
        svg = figure_files.drawn(spec, "svg", inches).decode()
        assert f'width="{inches}in"' in svg[:300]
        pdf = figure_files.drawn(spec, "pdf", inches)
        (box,) = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ", pdf)
        assert float(box) == pytest.approx(72 * inches, abs=0.1)
    png = figure_files.drawn(specs[0], "png", inches)
    assert abs(struct.unpack(">I", png[16:20])[0] - 300 * inches) <= 1


def test_type_is_of_a_size_that_can_be_read(specs):
    for spec in specs:
        svg = figure_files.drawn(spec, "svg", 3.3).decode()
        (wide,) = re.findall(r'viewBox="0 0 ([\d.]+) ', svg)
        points = 72 * 3.3 / float(wide)
        assert {float(size) * points for size in re.findall(r'font-size="([\d.]+)px"', svg)} <= {7, 8}


def test_a_figure_of_several_parts_is_made_as_wide_as_a_whole(specs):
    parts = {key: specs[0][key] for key in ("config", "datasets", "params")}
    parts["hconcat"] = [{key: value for key, value in specs[0].items() if key not in parts} | {"width": 300}] * 2
    svg = figure_files.drawn(parts, "svg", 6.9).decode()
    assert 'width="6.9in"' in svg[:300]
    assert float(re.findall(r'viewBox="0 0 ([\d.]+) ', svg)[0]) > 600


def test_the_font_is_in_the_file(specs):
    from fontTools.ttLib import TTFont

    assert re.search(rb"/FontFile[23]? ", figure_files.drawn(specs[0], "pdf", 3.3))
    svg = figure_files.drawn(specs[0], "svg", 3.3).decode()
    assert set(re.findall(r'font-family="([^"]*)"', svg)) == {"Source Sans Pro"}
    (data,) = re.findall(r"url\(data:font/woff;base64,([^)]*)\)", svg)
    with TTFont(io.BytesIO(base64.b64decode(data))) as font:
        known = font.getBestCmap()
    shown = set("".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg)))
    assert "q" in shown
    assert {ord(sign) for sign in shown} <= known.keys() | {ord("&"), ord(";")}
