import json

import pytest

from bench import suite
from bench.suite import SuiteError

GOOD = {"model": "minilm", "task": "stdlib-topics", "recipes": {"full": "full", "lora": "lora(r=8)"}}


def test_defaults_of_the_shortest_suite():
    found = suite.of(GOOD)
    assert found.seeds == [0]
    assert found.models == ["minilm"]
    assert found.budget.batch_size == 16
    assert found.measure.latency == [(1, 16), (8, 64)]
    assert [str(recipe) for recipe in found.parsed().values()] == ["full", "lora"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"modle": "minilm"}, "modle: unknown key; did you mean `model`?"),
        ({"budget": {"stepss": 1}}, "budget.stepss: unknown key; did you mean `steps`?"),
        ({"budget": {"steps": "60"}}, "budget.steps: input should be a valid integer, found '60'"),
        ({"budget": {"steps": 0}}, "budget.steps: input should be greater than or equal to 1, found 0"),
        ({"measure": {"latencies": []}}, "did you mean `latency`?"),
        ({"measure": {"latency": [[1]]}}, "[batch size, tokens]"),
        ({"measure": {"latency": [[0, 8]]}}, "[batch size, tokens]"),
        ({"recipes": {}}, "at least one is needed"),
        ({"recipes": {"full": 3}}, "recipes.full: input should be a valid string, found 3"),
        ({"recipes": {"full": "fulll"}}, "recipes.full: unknown method `fulll`; did you mean `full`?"),
        ({"reference": "ful"}, "no recipe is called `ful`; did you mean `full`?"),
        ({"seeds": []}, "seeds: "),
        ({"seeds": [1, 1]}, "each seed is named once"),
        ({"seeds": 3}, "seeds: input should be a valid list, found 3"),
        ({"model": []}, "model: "),
        ({"device": "gpu"}, "device: "),
        ({"task": {"kind": "classification"}}, "task.data: this key is missing"),
        ({"task": {"kind": "classifcation", "data": "x.csv"}}, "task.kind: input should be 'classification'"),
        ({"task": {"kind": "classification", "data": "x.csv", "labels": "y"}}, "did you mean `label`?"),
        ({"defaults": {"lorra": {}}}, "did you mean `lora`?"),
        ({"defaults": {"lora": {"rr": 8}}}, "defaults.lora.rr"),
        ({"defaults": {"lora": {"r": 0}}}, "greater than or equal to 1"),
    ],
)
def test_a_wrong_suite_names_file_key_and_mend(change, says):
    with pytest.raises(SuiteError) as error:
        suite.of({**GOOD, **change}, where="some.toml: ")
    assert says in str(error.value)
    assert str(error.value).startswith("some.toml: ")


def test_missing_keys_are_all_named():
    with pytest.raises(SuiteError) as error:
        suite.of({})
    assert {line.split(":")[0] for line in str(error.value).splitlines()} == {"model", "task", "recipes"}


def test_faults_of_the_file(tmp_path):
    (tmp_path / "good.toml").write_text("x = 1")
    with pytest.raises(SuiteError, match="no such file; did you mean"):
        suite.load(tmp_path / "god.toml")
    with pytest.raises(SuiteError, match="cannot be read"):
        suite.load(tmp_path)
    (tmp_path / "bad.toml").write_text("model = nothing")
    with pytest.raises(SuiteError, match=r"bad.toml: not TOML: .*line 1"):
        suite.load(tmp_path / "bad.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SuiteError, match="cannot be read"):
        suite.load(tmp_path / "binary.toml")
    (tmp_path / "twice.toml").write_text('[recipes]\nfull = "full"\nfull = "full"\n')
    with pytest.raises(SuiteError, match="may stand only once"):
        suite.load(tmp_path / "twice.toml")
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(SuiteError, match="recipes: this key is missing"):
        suite.load(tmp_path / "empty.toml")


def test_only_matches_patterns_and_says_what_it_did_not_find():
    found = suite.of(GOOD)
    assert found.only([]) == {"full", "lora"}
    assert found.only(["lo*"]) == {"lora"}
    with pytest.raises(SuiteError, match=r"'x\*' matches no recipe; there are: full, lora"):
        found.only(["lora", "x*"])


def test_defaults_reach_the_recipes():
    found = suite.of({**GOOD, "defaults": {"lora": {"alpha": 4.0}}})
    assert str(found.parsed()["lora"]) == "lora(alpha=4.0)"


def test_the_json_schema_knows_every_key():
    schema = suite.json_schema()
    assert set(schema["properties"]) == set(suite.Suite.model_fields)
    assert json.dumps(schema)
    assert schema["additionalProperties"] is False


def test_the_suites_that_come_along_are_right():
    from bench import catalogue

    shipped = catalogue.suites()
    assert "encoder" in shipped
    for path in shipped.values():
        suite.load(path)
    encoder = suite.load(shipped["encoder"])
    assert len(encoder.recipes) >= 12
    assert "full >> prune_ffn(amount=0.5) >> full(share=0.3)" in map(str, encoder.parsed().values())
