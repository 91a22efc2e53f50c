import json

import pytest

from bench.suite import suite
from bench.suite.suite import SuiteError

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
        ({"measure": {"latency": [[1, 16], [10**12, 8]]}}, "measure.latency: each is [batch size, tokens]"),
        ({"measure": {"latency": [[2**20, 2**20]]}}, "at most 16777216 tokens together, found [1048576, 1048576]"),
        (
            {"measure": {"latency_samples": 10**12}},
            "measure.latency_samples: input should be less than or equal to 100000",
        ),
        (
            {"measure": {"latency_processes": 10**12}},
            "measure.latency_processes: input should be less than or equal to 20",
        ),
        ({"measure": {"turns": -1}}, "measure.turns: input should be greater than or equal to 0, found -1"),
        ({"measure": {"turns": True}}, "measure.turns: input should be a valid integer, found True"),
        ({"budget": {"batch_size": 10**12}}, "budget.batch_size: input should be less than or equal to 1048576"),
        (
            {"budget": {"eval_batch_size": 2**63}},
            "budget.eval_batch_size: input should be less than or equal to 1048576",
        ),
        ({"budget": {"steps": 10**12}}, "budget.steps: input should be less than or equal to 100000000"),
        ({"budget": {"warmup_steps": 10**12}}, "budget.warmup_steps: input should be less than or equal to 100000000"),
        ({"budget": {"max_length": 2**64}}, "budget.max_length: input should be less than or equal to 16777216"),
        ({"budget": {"max_length": 1}}, "budget.max_length: input should be greater than or equal to 2, found 1"),
        ({"threads": 10**9}, "threads: input should be less than or equal to 1024, found 1000000000"),
        ({"threads": 0}, "threads: input should be greater than or equal to 1, found 0"),
        ({"seeds": [0, 2**63]}, "seeds.1: input should be less than 536870912, found 9223372036854775808"),
        ({"seeds": [2**29]}, "seeds.0: input should be less than 536870912, found 536870912"),
        ({"seeds": [-1]}, "seeds.0: input should be greater than or equal to 0, found -1"),
        ({"seeds": [True]}, "seeds.0: input should be a valid integer, found True"),
        ({"task": {"kind": "classification", "data": ""}}, "task.data: string should have at least 1 character"),
        (
            {"task": {"kind": "classification", "data": "x.csv", "label": ""}},
            "task.label: string should have at least 1",
        ),
        ({"recipes": {}}, "at least one is needed"),
        ({"recipes": {"full": 3}}, "recipes.full: input should be a valid string, found 3"),
        ({"recipes": {"full": "fulll"}}, "recipes.full: unknown method `fulll`; did you mean `full`?"),
        ({"measure": {"keep": "bst"}}, 'measure.keep: it is "best", "all" or a list of recipes\' names, found \'bst\''),
        ({"measure": {"keep": [3]}}, 'measure.keep: it is "best", "all" or a list of recipes\' names, found [3]'),
        ({"measure": {"keep": ["ful"]}}, "measure.keep: no recipe is called `ful`; did you mean `full`?"),
        ({"measure": {"keep": "best", "quality": False}}, 'measure.keep: "best" is by quality, and `quality = false`'),
        ({"baseline": "ful"}, "no recipe is called `ful`; did you mean `full`?"),
        ({"seeds": []}, "seeds: "),
        ({"seeds": [1, 1]}, "each seed is named once"),
        ({"seeds": 3}, "seeds: input should be a valid list, found 3"),
        ({"model": []}, "model: "),
        ({"device": "gpu"}, "device: "),
        ({"task": {"kind": "classification"}}, "task: name the data: one file in `data`, or"),
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
    (tmp_path / "long.toml").write_text(f"x = {'9' * 5000}")
    with pytest.raises(SuiteError, match=r"long.toml: not TOML"):
        suite.load(tmp_path / "long.toml")
    with pytest.raises(SuiteError, match="cannot be read"):
        suite.load(f"{tmp_path}/a\0b.toml")
    (tmp_path / "marked.toml").write_bytes(b"\xef\xbb\xbfx = 1")
    assert suite.read_table(tmp_path / "marked.toml") == {"x": 1}
    (tmp_path / "bits.toml").write_text(f"[budget]\nsteps = 0x{'f' * 5000}")
    with pytest.raises(SuiteError, match=r"bits.toml: budget.steps: a whole number of 20000 bits; TOML's have 64"):
        suite.load(tmp_path / "bits.toml")
    (tmp_path / "unseen.toml").write_text('model = "m"\ntask = "t"\n[recipes]\n"a\\u001b[2J" = "full"')
    with pytest.raises(SuiteError, match=r"it holds characters that cannot be seen, found 'a.x1b\[2J'; take them out"):
        suite.load(tmp_path / "unseen.toml")
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


def test_every_whole_number_of_a_suite_has_bounds_which_its_schema_says():
    schema = suite.json_schema()
    tables = {"": schema, **schema["$defs"]}
    found = {}
    for table, of in tables.items():
        for key, value in of.get("properties", {}).items():
            if key == "latency":  # pairs: their bound is on the product
                continue
            numbers = [
                each
                for each in [value, value.get("items", {}), *value.get("anyOf", [])]
                if each.get("type") == "integer"
            ]
            for number in numbers:
                least = number.get("minimum")
                most = number.get("maximum", number.get("exclusiveMaximum"))
                found[f"{table}.{key}"] = (least, most)
    assert found == {
        ".seeds": (0, 2**29), ".threads": (1, 1024), "Budget.steps": (1, 10**8), "Budget.batch_size": (1, 2**20),
        "Budget.max_length": (2, 2**24), "Budget.warmup_steps": (0, 10**8), "Budget.eval_batch_size": (1, 2**20),
        "Measure.latency_processes": (1, 20), "Measure.latency_samples": (3, 100_000), "GateTable.max_pairs": (6, 40),
        "GateTable.repeats": (6, 1000), "Measure.turns": (0, 1000), "Budget.eval_steps": (1, 10**8),
            "TuneTable.steps": (1, 10**8),
    }  # fmt: skip


def test_the_json_schema_knows_every_key():
    schema = suite.json_schema()
    assert set(schema["properties"]) == set(suite.Suite.model_fields)
    assert json.dumps(schema)
    assert schema["additionalProperties"] is False


def test_the_suites_that_come_along_are_right():
    from bench.suite.suite import shipped

    found = shipped()
    assert "encoder" in found
    for path in found.values():
        suite.load(path)
    encoder = suite.load(found["encoder"])
    assert len(encoder.recipes) >= 12
    assert "full >> prune_ffn(amount=0.5) >> full(share=0.3)" in map(str, encoder.parsed().values())


def test_a_suite_that_was_written_as_json_reads_the_same():
    """As a run's record holds it, from which the run is made again."""
    own = {"kind": "classification", "data": "a.csv", "label": "x"}
    table = {
        "model": "minilm",
        "task": [own, "stdlib-topics"],
        "measure": {"retain": {"kind": "causal_lm", "data": "a.txt"}, "latency": [[1, 8]]},
        "gate": {"throughput": "3%"},
        "recipes": {"full": "full"},
    }
    whole = suite.of(table)
    assert suite.of(json.loads(json.dumps(whole.model_dump(mode="json", exclude_unset=True)))) == whole
