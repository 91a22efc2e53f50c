"""Whole numbers that no training can have, in every argument of every method: refused when read or planned."""

import dataclasses
import typing

import pytest

from bench.plan import plan
from bench.recipe import recipe, registry
from bench.recipe.errors import RecipeError
from bench.recipe.fields import fields_of
from bench.suite.suite import of
from tests.subjects import HERE

HARMLESS = {
    ("augment", "k"): "of the nearest words there are as many as words",
    ("compressed_gradients", "rank"): "refused when the sizes are known",
    ("early_stopping", "every"): "the validation loss is looked at after the last step alone",
    ("early_stopping", "patience"): "it never stops",
    ("gradual", "every"): "it prunes at the last of its steps alone",
    ("optimizer", "min_8bit_size"): "refused when the sizes are known",
}
"""Arguments that may be as large as one likes, and what that means."""


def whole_numbers():
    for name, cls in sorted(registry.methods().items()):
        hints = typing.get_type_hints(cls, include_extras=True)
        for field in fields_of(cls):
            if "int" in {getattr(each, "__name__", "") for each in _parts(hints[field.name])}:
                yield name, field.name


def _parts(hint):
    yield hint
    if typing.get_origin(hint) is not typing.Literal:
        for part in typing.get_args(hint):
            yield from _parts(part)


def test_these_are_all():
    found = set(whole_numbers())
    assert len(found) > 25
    assert found >= HARMLESS.keys()
    assert {
        ("lora", "r"),
        ("accumulate", "k"),
        ("wanda", "samples"),
        ("data_parallel", "n"),
        ("top_layers", "n"),
    } <= found


@pytest.mark.parametrize(("name", "argument"), [pair for pair in whole_numbers() if pair not in HARMLESS], ids=".".join)
@pytest.mark.parametrize("value", [0, -1, 10**12, 2**63, 10**30])
def test_a_number_out_of_all_bounds_is_refused_and_named(name, argument, value, tiny_bert, tmp_path):
    rows = "".join(f"text {number} of many,{'ab'[number % 2]}\n" for number in range(60))
    (tmp_path / "rows.csv").write_text(f"text,label\n{rows}")
    said = ""
    try:
        stages = [
            [dataclasses.replace(each, **{argument: value}) if each.name == name else each for each in stage.methods]
            for stage in recipe.parse(registry.methods()[name].example).stages
        ]
    except RecipeError as error:
        said = str(error)
    if said:
        assert said.startswith(f"{name}: {argument}: input should be ")
        assert said.endswith(f"found {value}")
        return
    text = " >> ".join(" + ".join(map(str, methods)) for methods in stages)
    suite = of(
        {"model": str(tiny_bert), "task": {"kind": "classification", "data": "rows.csv"}, "recipes": {"x": text}}
    )
    (cell,) = plan.make(suite, tmp_path, HERE).cells
    assert any(reason.startswith((f"{name}: ", f"{name} + ")) for reason in cell.refused), cell.refused
