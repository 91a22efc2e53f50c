import pytest

from bench.recipe import recipe, registry
from tests.mutants import planting

DECLARED = [
    pytest.param(mutant, id=f"{family}-{mutant.why}")
    for family, mutants in planting.families().items()
    for mutant in mutants
]


@pytest.mark.parametrize("mutant", DECLARED)
def test_a_mutant_can_be_planted_and_its_recipe_uses_the_method(mutant):
    source = mutant.planted()
    assert mutant.old != mutant.new
    compile(source, mutant.file, "exec")
    assert mutant.method in registry.methods()
    assert mutant.method in mutant.recipe
    recipe.parse(mutant.recipe)
    assert all((planting.ROOT / test).is_file() for test in mutant.tests)


def test_no_two_mutants_have_one_name():
    names = [str(param.values[0]) for param in DECLARED]
    assert len(set(names)) == len(names)


def test_the_import_gives_the_planted_source(tmp_path, monkeypatch):
    (tmp_path / "victim.py").write_text("ANSWER = 41 + 1\n")
    monkeypatch.setattr(planting, "ROOT", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    planted = planting.Planting(planting.Mutant("", "victim.py", "+ 1", "- 1", "", ""))
    spec = planted.find_spec("victim")
    namespace: dict[str, object] = {}
    exec(spec.loader.get_code("victim"), namespace)
    assert namespace["ANSWER"] == 40
    assert planted.find_spec("other") is None


@pytest.mark.parametrize("old", ["missing", "4"])
def test_what_does_not_stand_there_once_is_an_error(old, tmp_path, monkeypatch):
    (tmp_path / "victim.py").write_text("ANSWER = 44\n")
    monkeypatch.setattr(planting, "ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"victim\.py: found [02] times"):
        planting.Mutant("", "victim.py", old, "", "", "").planted()
