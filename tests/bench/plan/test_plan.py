import dataclasses
import json

import pytest

from bench.models.structure import Structure
from bench.plan import plan
from bench.recipe import registry
from bench.recipe.declarations import Broken
from bench.suite.suite import SuiteError
from tests.subjects import HERE, NoModel, NoTask, make_plan

SHARED = {"a": "full >> torch_int8_dynamic", "b": "full >> magnitude(0.5)", "c": "full", "d": "lora(r=8) >> merge"}


def test_common_prefixes_are_one_node_a_seed(monkeypatch):
    found = make_plan(monkeypatch, SHARED, seeds=[0, 1])
    texts = [(str(node.recipe), node.seed) for node in found.nodes.values()]
    assert len(texts) == len(set(texts)) == 10
    assert sum(text == "full" for text, _ in texts) == 2
    assert len(found.cells) == 8


def test_parents_come_first_and_depth_first(monkeypatch):
    found = make_plan(monkeypatch, SHARED)
    order = [str(node.recipe) for node in found.nodes.values()]
    assert order == ["full", "full >> torch_int8_dynamic", "full >> magnitude(amount=0.5)", "lora", "lora >> merge"]
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
    assert ids(measure={"turns": 0}) == same
    assert ids(measure={"keep": "best"}) == same
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
        ("lora >> torch_int8_dynamic", "torch_int8_dynamic: there is an adapter"),
        ("lora >> magnitude(0.5)", "magnitude: there is an adapter"),
        ("full >> torch_int8_dynamic >> full", "full: "),
        ("full >> torch_int8_dynamic >> lora", "lora: no gradient flows"),
        ("full >> torch_int8_dynamic >> torch_int8_dynamic", "quantized already"),
        ("full >> torch_int8_dynamic >> prune_ffn(0.5)", "prune_ffn: quantized weights"),
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
    (cell,) = make_plan(
        monkeypatch, {"x": "lora >> merge >> prune_ffn(0.5) >> full(share=0.3) >> torch_int8_dynamic"}
    ).cells
    assert cell.refused == ()
    assert len(cell.path) == 5


def test_to_run_counts_records_and_checkpoints(monkeypatch):
    found = make_plan(monkeypatch, {"a": "full >> torch_int8_dynamic", "b": "full >> magnitude(0.5)"})
    full, int8, sparse = found.nodes
    assert plan.to_run(found, set(), set()) == {full: "new", int8: "new", sparse: "new"}
    assert plan.to_run(found, {full, int8}, {full}) == {sparse: "new"}
    assert plan.to_run(found, {full, int8}, set()) == {full: "again", sparse: "new"}
    assert plan.to_run(found, {full, int8, sparse}, set()) == {}


def test_the_uncompressed_model_is_what_the_compression_began_with(monkeypatch):
    chain = "lora >> merge >> prune_ffn(0.5) >> full(share=0.3) >> torch_int8_dynamic"
    (cell,) = make_plan(monkeypatch, {"x": chain}).cells
    lora, *rest = cell.path
    assert lora.uncompressed is None
    assert {node.uncompressed for node in rest} == {lora.id}
    (cell,) = make_plan(monkeypatch, {"x": "full >> full >> distill(layers=1) >> half"}).cells
    assert [node.uncompressed for node in cell.path] == [None, None, cell.path[1].id, cell.path[1].id]
    (cell,) = make_plan(monkeypatch, {"x": "half >> full"}).cells
    assert [node.uncompressed for node in cell.path] == [None, None]  # it is the model that the recipe begins with


def test_what_a_chain_is_measured_beside_runs_again_where_it_is_gone(monkeypatch):
    found = make_plan(monkeypatch, {"x": "full >> magnitude(0.5) >> torch_int8_dynamic"})
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


# -- what is known of the model ------------------------------------------------------------------------------------


def planned(monkeypatch, recipes, known, **keys):
    monkeypatch.setattr(NoModel, "examine", lambda self, auto_class, options: known)
    monkeypatch.setattr(NoModel, "fingerprint", lambda self: repr(known))
    return make_plan(monkeypatch, recipes, **keys)


def test_a_model_that_cannot_be_used_refuses_its_own_cells_and_says_why(monkeypatch):
    found = planned(monkeypatch, {"a": "full", "b": "nf4"}, Structure(problems=("there: the file is empty; copy it",)))
    assert [cell.refused for cell in found.cells] == [("there: the file is empty; copy it",)] * 2
    assert not found.nodes


@pytest.mark.parametrize(
    ("recipe", "positions", "said"),
    [
        ("full", 64, ""),
        ("full", 63, "budget.max_length: no-model has 63 positions, and items may have 64 tokens; lower it to 63"),
        ("prompt(3)", 66, "items may have 64 tokens and 3 virtual ones; lower it to 63"),
        ("prompt(3)", 67, ""),
        ("full", 40, "measure.latency: no-model has 40 positions, and [8, 64] asks for 64 tokens; lower it to 40"),
        ("full", None, ""),
    ],
)
def test_items_and_latency_fit_the_positions(monkeypatch, recipe, positions, said):
    found = planned(monkeypatch, {"r": recipe}, Structure(positions=positions), measure={"latency": [[8, 64]]})
    if said:
        assert any(said in reason for reason in found.cells[0].refused), found.cells[0].refused
    else:
        assert not found.cells[0].refused


@pytest.mark.parametrize(
    ("recipe", "shape", "device", "refused"),
    [
        ("full", [100_000, 64], "cpu", True),  # 26 GB of 16
        ("full >> half", [100_000, 64], "cpu", False),
        ("full", [50_000, 64], "cpu", False),
        ("full", [50_000, 64], "cuda", True),  # 13 GB of 8
        ("full >> prune_hidden(0.5)", [100_000, 64], "cpu", False),
    ],
)
def test_inputs_alone_that_no_memory_holds_are_refused(monkeypatch, recipe, shape, device, refused):
    here = dataclasses.replace(HERE, device=device, memory=16 * 10**9, gpu_memory=8 * 10**9, gpus=1)
    structure = Structure(config={"hidden_size": 512})
    found = planned(monkeypatch, {"r": recipe}, structure, machine=here, measure={"latency": [shape]})
    said = [reason for reason in found.cells[0].refused if reason.startswith("measure.latency: [")]
    assert bool(said) == refused
    if said:
        mend = json.loads(said[0].rpartition("lower it to ")[2].removesuffix(" or less"))
        assert 0 < mend[0] * 8 * mend[1] * 512 < (8 if device == "cuda" else 16) * 10**9


def test_what_a_reader_should_know_is_noted_once(monkeypatch):
    recipes = {"trained": "full", "not": "torch_int8_dynamic", "after": "full >> torch_int8_dynamic"}
    found = planned(monkeypatch, recipes, Structure(head="new", notes=("texts are padded",)), seeds=[0, 1])
    assert [note.text for note in found.notes(recipes)] == [
        "no-model: texts are padded",
        "`not` trains nothing and the head is new, so its quality is that of a random head",
    ]
    assert [note.text for note in found.notes({"trained"})] == ["no-model: texts are padded"]
    kept = planned(monkeypatch, recipes, Structure(head="kept"))
    assert not kept.notes(recipes)


@pytest.mark.parametrize(
    ("amount", "heads", "groups", "said"),
    [
        (0.25, 8, 2, "0.25 of 2 groups of heads is less than one half of one"),
        (0.5, 8, 2, ""),
        (0.04, 12, 12, "0.04 of 12 groups of heads is less than one half of one"),
        (0.25, 12, 12, ""),
        (0.9, 2, 2, "is all of them, and one has to stay; lower it to 0.5"),
    ],
)
def test_a_share_of_heads_that_rounds_to_none_or_all_is_refused(monkeypatch, amount, heads, groups, said):
    known = Structure(config={"num_attention_heads": heads, "num_key_value_heads": groups})
    (cell,) = planned(monkeypatch, {"r": f"prune_heads({amount})"}, known).cells
    assert any(said in reason for reason in cell.refused) if said else not cell.refused


@pytest.mark.parametrize(
    ("recipe", "known", "said"),
    [
        ("magnitude(0.5)", {"not_linear": ("Conv1D",)}, "hold weights in Conv1D"),
        ("wanda(0.5)", {"not_linear": ("Conv1D",)}, "hold weights in Conv1D"),
        ("sparsegpt(0.5)", {"not_linear": ("MixtralExperts",)}, "hold weights in MixtralExperts"),
        ("sparse_2_4", {"not_linear": ("MixtralExperts",)}, "hold weights in MixtralExperts"),
        ("low_rank(2)", {"not_linear": ("Conv1D",)}, "hold weights in Conv1D"),
        ("bnb_int8", {"not_linear": ("Conv1D",)}, "hold weights in Conv1D"),
        ("nf4", {"not_linear": ("Conv1D",)}, "hold weights in Conv1D"),
        ("gptq", {"not_linear": ("Conv1D",)}, "hold weights in Conv1D"),
        ("awq", {"not_linear": ("Conv1D",)}, "hold weights in Conv1D"),
        ("int4", {"not_linear": ("Conv1D",)}, "hold weights in Conv1D"),
        ("torchao_int8_dynamic", {"not_linear": ("Conv1D",)}, "hold weights in Conv1D"),
        ("torchao_int8_weight_only", {"not_linear": ("Conv1D",)}, "hold weights in Conv1D"),
        ("torch_int8_dynamic", {"not_linear": ("Conv1D",)}, "hold weights in Conv1D"),
        ("full + qat_int8", {"not_linear": ("Conv1D",)}, "hold weights in Conv1D"),
        ("full + gradual(magnitude(0.5))", {"not_linear": ("Conv1D",)}, "hold weights in Conv1D"),
        ("nf4", {"casts": ("T5DenseActDense",)}, "T5DenseActDense casts activations"),
        ("fp4", {"casts": ("T5DenseActDense",)}, "T5DenseActDense casts activations"),
        ("gptq", {"casts": ("T5DenseActDense",)}, "T5DenseActDense casts activations"),
        ("awq", {"casts": ("T5DenseActDense",)}, "T5DenseActDense casts activations"),
        ("int4", {"casts": ("T5DenseActDense",)}, "T5DenseActDense casts activations"),
        ("top_layers(1)", {"encoder_decoder": True}, "blocks in an encoder and in a decoder"),
        ("drop_layers(1)", {"encoder_decoder": True}, "blocks in an encoder and in a decoder"),
        ("full >> distill", {"encoder_decoder": True}, "blocks in an encoder and in a decoder"),
        ("full + neftune", {"encoder_decoder": True}, "embeds each text twice"),
        ('pretrain("mlm")', {"encoder_decoder": True}, "has an encoder and a decoder"),
        ("prefix(2)", {"encoder_decoder": True}, "has an encoder and a decoder"),
        ("top_layers(1)", {"stacks": (1,), "repeats": True}, "calls the same block again and again"),
        ("drop_layers(1)", {"stacks": (1,), "repeats": True}, "calls the same block again and again"),
        ("prefix(2)", {"stacks": (2,)}, "takes no keys and values from outside"),
        ("prefix(2)", {"stacks": (2,), "cache": "model", "cache_heads": 1, "config": {"num_attention_heads": 4}}, "keeps those of 1"),
        ("prompt(2)", {"needs_ids": True}, "embeddings in place of token ids"),
        ("bitfit", {"stacks": (2,)}, "have no biases"),
        ("full + gradient_checkpointing", {"stacks": (2,)}, "no gradient checkpointing"),
        ("adapter", {"untold": {"attention_outputs": "block 0 has none"}}, "block 0 has none"),
        ("adapter", {"untold": {"feed_forward_outputs": "block 0 has none"}}, "block 0 has none"),
        ("lora", {"layers": {"a": "Linear"}}, "PEFT does not know which layers"),
        ("ia3", {"layers": {"a": "Linear"}, "targets": {"LORA": ("a",)}}, "PEFT does not know which layers"),
        ('lora(targets=["b"])', {"layers": {"a": "Linear"}}, "no layer called `b`"),
        ('adalora(targets=["a"])', {"layers": {"a": "Embedding"}}, "`a` is an embedding"),
    ],
)  # fmt: skip
def test_what_an_architecture_lacks_is_refused_for_its_own_reason(monkeypatch, recipe, known, said):
    (cell,) = planned(monkeypatch, {"r": recipe}, Structure(**known), budget={"steps": 60}).cells
    assert any(said in reason for reason in cell.refused), cell.refused
    (other,) = planned(
        monkeypatch, {"r": recipe}, Structure(biases=2, stacks=(2,), cache="model", checkpoints=True)
    ).cells
    assert not any(said in reason for reason in other.refused)


def test_figures_without_a_registered_metric_are_refused(monkeypatch):
    monkeypatch.setattr(registry.methods()["magnitude"], "figures", ("novel",))
    (cell,) = make_plan(monkeypatch, {"it": "full >> magnitude(0.5)"}).cells
    assert cell.refused[0].startswith("magnitude: it declares `novel`, and no metric of that name is registered")
    monkeypatch.setattr(NoTask, "metrics", ("acuracy",))
    with pytest.raises(SuiteError, match=r"task no-task: it declares `acuracy`.* did you mean `accuracy`"):
        make_plan(monkeypatch, {"it": "full"})


@pytest.mark.parametrize(
    ("recipe", "budget", "said"),
    [
        (
            "full + pipeline_parallel(2, microbatches=2)",
            {},
            "budget.eval_steps: no process of `full + pipeline_parallel",
        ),
        ("full + fully_sharded(2)", {}, "has the whole model, which is divided by shards; leave eval_steps out"),
        ("full + early_stopping", {"load_best_model_at_end": True}, "early_stopping goes back to its own best weights"),
        ("adalora", {"load_best_model_at_end": True}, "budget.load_best_model_at_end: its ranks reach their target"),
        ("full", {"load_best_model_at_end": True}, ""),
        ("full + early_stopping", {}, ""),
        ("full + data_parallel(2)", {}, ""),
        ("bnb_int8", {"load_best_model_at_end": True}, ""),
    ],
)
def test_what_cannot_be_scored_while_it_trains_is_refused(monkeypatch, recipe, budget, said):
    whole = make_plan(monkeypatch, {"x": recipe}, budget={"eval_steps": 5, **budget})
    reasons = [reason for reason in whole.cells[0].refused if reason.startswith("budget.")]
    assert [said in reason for reason in reasons] == ([True] if said else [])


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"tune": {"lr": [1e-3, 1e-4]}}, "tune"),
        ({"budget": {"eval_steps": 5}}, "budget.eval_steps"),
        ({"measure": {"split": "validation"}}, "measure.split"),
    ],
)
def test_what_needs_a_validation_split_says_so_where_there_is_none(monkeypatch, keys, key):
    monkeypatch.setattr(NoTask, "splits", lambda self: frozenset({"train", "test"}))
    with pytest.raises(SuiteError, match=f"^{key}: no-task has no validation items to score; add items"):
        make_plan(monkeypatch, {"x": "full"}, **keys)


def test_random_weights_are_not_tuned(monkeypatch):
    monkeypatch.setattr(NoModel, "pretrained", False)
    with pytest.raises(SuiteError, match=r"^tune: no-model has random weights"):
        make_plan(monkeypatch, {"x": "full"}, tune={"lr": [1e-3, 1e-4]})


def test_keys_that_are_younger_than_records_change_no_id_until_they_are_used(monkeypatch):
    def id_(**keys):
        (node,) = make_plan(monkeypatch, {"x": "full"}, **keys).nodes
        return node

    known = "77385f1002343870"
    assert id_() == id_(budget={"load_best_model_at_end": False}) == id_(measure={"split": "test"}) == known
    others = [{"budget": {"eval_steps": 5}}, {"budget": {"epochs": 60}}, {"measure": {"split": "validation"}}]
    assert len({known, *(id_(**keys) for keys in others)}) == 4


def test_an_epochs_steps_are_known_to_the_methods_at_planning(monkeypatch):
    monkeypatch.setattr(NoTask, "training_items", lambda self: 16)
    recipes = {"x": 'full + schedule("linear", warmup=0.9)'}
    assert "all of the training's 1 steps" in make_plan(monkeypatch, recipes, budget={"epochs": 1}).cells[0].refused[0]
    assert not make_plan(monkeypatch, recipes, budget={"epochs": 50}).cells[0].refused
    monkeypatch.setattr(NoTask, "training_items", lambda self: None)
    assert not make_plan(monkeypatch, recipes, budget={"epochs": 1}).cells[0].refused
