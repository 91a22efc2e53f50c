import pytest

from bench.compare.compare import compare
from reports import stages
from tests import synthetic


def test_a_chain_is_a_line_from_stage_to_stage():
    (found,) = compare(synthetic.records())
    points = [each for each in stages.slopes(found).spec["datasets"]["stages"] if each["name"] == "half FFN"]
    row = next(row for row in found.rows if row.name == "half FFN")
    assert [each["place"] for each in points] == [1, 2, 3]
    assert [each["value"] for each in points] == pytest.approx([figures["accuracy"].value for _, figures in row.chain])
    assert [each["stage"] for each in points] == ["full", "prune_ffn(0.5)", "full(share=0.3)"]


def test_what_compression_gains_stands_against_what_it_keeps():
    (found,) = compare(synthetic.compressed({"int8": 2.0, "half": 1.25}))
    drawing = stages.kept(found)
    points = {each["name"]: each for each in drawing.spec["datasets"]["recipes"]}
    assert points["int8"]["x"] == pytest.approx(2.0)
    assert points["int8"]["y"] == pytest.approx(0.96)
    assert set(points) == {"int8", "half"}


def test_without_compression_there_is_nothing_to_draw():
    (found,) = compare(synthetic.records({"full": synthetic.Method("full"), "lora": synthetic.Method("lora")}))
    assert stages.kept(found) is stages.slopes(found) is None
