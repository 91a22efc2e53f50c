import dataclasses

import pytest

from bench import plan, registry
from bench.method import Broken
from bench.suite import SuiteError
from tests.subjects import HERE, make_plan

SHARED = {"a": "full >> dynamic_int8", "b": "full >> magnitude(0.5)", "c": "full", "d": "lora(r=8) >> merge"}


def test_common_prefixes_are_one_node_a_seed(monkeypatch):
    found = make_plan(monkeypatch, SHARED, seeds=[0, 1])
    texts = [(str(node.recipe), node.seed) for node in found.nodes.values()]
    assert len(texts) == len(set(texts)) == 10
    assert sum(text == "full" for text, _ in texts) == 2
    assert len(found.cells) == 8


def test_parents_come_first_and_depth_first(monkeypatch):
    found = make_plan(monkeypatch, SHARED)
    order = [str(node.recipe) for node in found.nodes.values()]
    assert order == ["full", "full >> dynamic_int8", "full >> magnitude(amount=0.5)", "lora", "lora >> merge"]
    seen = {None}
    for node in found.nodes.values():
        assert node.parent in seen
        seen.add(node.id)


def test_identity_holds_what_matters_and_nothing_else(monkeypatch):
    def ids(machine=HERE, recipes=None, **keys):
        return set(make_plan(monkeypatch, recipes or {"x": "lora(r=8)"}, machine, **keys).nodes)

    same = ids()
    assert ids(recipes={"another name": "lora"}) == same
    assert ids(title="another title") == same
    torch_moved = dataclasses.replace(HERE, versions=(("torch", "2.14"), ("peft", "0.21"), ("methodbench", "0")))
    peft_moved = dataclasses.replace(HERE, versions=(("torch", "2.13.0"), ("peft", "0.22"), ("methodbench", "0")))
    others = [
        ids(recipes={"x": "lora(r=4)"}), ids(seeds=[1]), ids(budget={"steps": 9}), ids(measure={"flops": False}),
        ids(dataclasses.replace(HERE, threads=1)), ids(dataclasses.replace(HERE, cpu="another")), ids(torch_moved), ids(peft_moved),
    ]  # fmt: skip
    assert len({*map(frozenset, [same, *others])}) == 9
    # A package that a recipe does not use does not make its result another one.
    assert ids(peft_moved, {"x": "full"}) == ids(recipes={"x": "full"})


def test_defaults_are_in_the_identity(monkeypatch):
    spelled = make_plan(monkeypatch, {"x": "full(lr=0.0002)"})
    assert set(spelled.nodes) == set(make_plan(monkeypatch, {"x": "full"}).nodes)
    with_default = make_plan(monkeypatch, {"x": "full"}, defaults={"full": {"lr": 0.1}})
    assert set(with_default.nodes) == set(make_plan(monkeypatch, {"x": "full(lr=0.1)"}).nodes)


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("merge", "merge: there is no adapter to fold"),
        ("full >> merge", "merge: there is no adapter to fold"),
        ("lora >> dynamic_int8", "dynamic_int8: there is an adapter"),
        ("lora >> magnitude(0.5)", "magnitude: there is an adapter"),
        ("full >> dynamic_int8 >> full", "full: "),
        ("full >> dynamic_int8 >> lora", "lora: no gradient flows"),
        ("full >> dynamic_int8 >> dynamic_int8", "quantized already"),
        ("full >> dynamic_int8 >> prune_ffn(0.5)", "prune_ffn: quantized weights"),
        ("full + accumulate(17)", "accumulate: a batch of 16 cannot be split into 17"),
        ("lora >> lora", "lora: there is an adapter on the model already"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(monkeypatch, recipe, says):
    found = make_plan(monkeypatch, {"good": "full", "bad": recipe})
    good, bad = found.cells
    assert good.refused == ()
    assert any(says in reason for reason in bad.refused), bad.refused
    assert [str(node.recipe) for node in found.nodes.values()] == ["full"]


def test_results_go_by_names_so_two_of_one_name_are_refused(monkeypatch):
    tables = [{"kind": "classification", "data": f"{folder}/mine.csv"} for folder in ("one", "two")]
    with pytest.raises(
        SuiteError, match="the model no-model on the task no-task is there 2 times, and results go by these"
    ):
        make_plan(monkeypatch, {"x": "full"}, task=tables)
    with pytest.raises(SuiteError, match="name each once"):
        make_plan(monkeypatch, {"x": "full"}, model=["a/bert", "b/bert"])


def test_a_missing_package_is_named(monkeypatch):
    real = plan.importlib.util.find_spec
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: None if name == "torch_pruning" else real(name))
    (cell,) = make_plan(monkeypatch, {"x": "full >> prune_ffn(0.5)"}).cells
    assert cell.refused == ("prune_ffn: needs the package torch-pruning: pip install torch-pruning",)


def test_a_merged_adapter_can_be_compressed(monkeypatch):
    (cell,) = make_plan(monkeypatch, {"x": "lora >> merge >> prune_ffn(0.5) >> full(share=0.3) >> dynamic_int8"}).cells
    assert cell.refused == ()
    assert len(cell.path) == 5


def test_to_run_counts_records_and_checkpoints(monkeypatch):
    found = make_plan(monkeypatch, {"a": "full >> dynamic_int8", "b": "full >> magnitude(0.5)"})
    full, int8, sparse = found.nodes
    assert plan.to_run(found, set(), set()) == {full: "new", int8: "new", sparse: "new"}
    assert plan.to_run(found, {full, int8}, {full}) == {sparse: "new"}
    assert plan.to_run(found, {full, int8}, set()) == {full: "again", sparse: "new"}
    assert plan.to_run(found, {full, int8, sparse}, set()) == {}


def test_the_uncompressed_model_is_what_the_compression_began_with(monkeypatch):
    chain = "lora >> merge >> prune_ffn(0.5) >> full(share=0.3) >> dynamic_int8"
    (cell,) = make_plan(monkeypatch, {"x": chain}).cells
    lora, *rest = cell.path
    assert lora.reference is None
    assert {node.reference for node in rest} == {lora.id}
    (cell,) = make_plan(monkeypatch, {"x": "full >> full >> distill(layers=1) >> half"}).cells
    assert [node.reference for node in cell.path] == [None, None, cell.path[1].id, cell.path[1].id]
    (cell,) = make_plan(monkeypatch, {"x": "half >> full"}).cells
    assert [node.reference for node in cell.path] == [None, None]  # it is the model that the recipe begins with


def test_what_a_chain_is_measured_beside_runs_again_where_it_is_gone(monkeypatch):
    found = make_plan(monkeypatch, {"x": "full >> magnitude(0.5) >> dynamic_int8"})
    full, sparse, int8 = found.nodes
    assert plan.to_run(found, {full, sparse}, {sparse}) == {full: "again", int8: "new"}
    assert plan.to_run(found, {full, sparse}, {full, sparse}) == {int8: "new"}


def test_select_leaves_what_others_need(monkeypatch):
    found = make_plan(monkeypatch, SHARED)
    assert [str(node.recipe) for node in found.select({"b"}).nodes.values()] == [
        "full",
        "full >> magnitude(amount=0.5)",
    ]
    assert len(found.select({"b"}).cells) == 4


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("lora >> magnitude(0.5)", "fold it first, as in `… >> merge >> magnitude(amount=0.5)`"),
        (
            "prompt(4) >> magnitude(0.5)",
            "it cannot be folded into the weights, so put `magnitude(amount=0.5)` before it",
        ),
        ("adapter(8) >> full", "it cannot be folded into the weights, so put `full` before it"),
        ("prefix(4) >> lora", "it cannot be folded into the weights, so put `lora` before it"),
    ],
)
def test_folding_is_advised_where_it_can_be_done(monkeypatch, recipe, says):
    (cell,) = make_plan(monkeypatch, {"x": recipe}).cells
    assert says in cell.refused[0]


BROKEN = Broken(("torch>=2.13", "peft<0.22"), "they do not agree", "pip install peft==0.22")


@pytest.mark.parametrize(
    ("broken", "refused"),
    [
        (BROKEN, True),
        (dataclasses.replace(BROKEN, versions=("torch>=2.13", "peft>=0.22")), False),
        (dataclasses.replace(BROKEN, tasks=frozenset({"classification"})), True),
        (dataclasses.replace(BROKEN, tasks=frozenset({"causal_lm"})), False),
    ],
)
@pytest.mark.parametrize(
    "recipe", ["magnitude(0.5)", "full >> magnitude(0.5) >> full", "full + gradual(magnitude(0.5))"]
)
def test_versions_that_break_a_method_are_refused_wherever_it_stands(monkeypatch, broken, refused, recipe):
    monkeypatch.setattr(registry.methods()["magnitude"], "breaks_with", (broken,))
    other, cell = make_plan(monkeypatch, {"other": "full", "x": recipe}).cells
    assert not other.refused
    assert len(cell.refused) == refused
    for reason in cell.refused:
        assert reason.endswith(" with torch>=2.13 and peft<0.22: they do not agree; pip install peft==0.22")
        assert reason.startswith(("magnitude: it does not work", "gradual: it does not work"))
