"""What methods declare, and that planning refuses by it."""

from typing import get_args

import pytest

from bench.plan import refusals
from bench.plan.context import PlanContext
from bench.recipe.declarations import Fact, Trait
from bench.recipe.errors import RecipeError
from bench.recipe.recipe import parse
from bench.recipe.registry import methods
from bench.tasks.kinds.classification import Classification
from tests import architectures
from tests.subjects import HERE

WORDS = dict.fromkeys(("method", "name", "model", "fold", "other"), "-")


def at_the_end_of(text):
    """The context of the last stage of a recipe."""
    *before, stage = parse(text).stages
    return PlanContext(
        before=tuple(before), stage=stage, machine=HERE, task=Classification, model="bert", batch_size=16, steps=60,
        config={"hidden_size": 32, "intermediate_size": 64}, structure=architectures.structure("bert"),
    )  # fmt: skip


@pytest.mark.parametrize("name", methods())
def test_declarations_name_facts_and_traits_that_there_are(name):
    cls = methods()[name]
    method = next(each for stage in parse(cls.example).stages for each in stage.methods if isinstance(each, cls))
    facts, traits = set(get_args(Fact)), set(get_args(Trait))
    assert facts >= {*method.adds, *method.removes, *method.tolerates}
    assert facts >= {fact for fact, _ in (*method.requires, *method.refuses)}
    assert traits >= {*method.traits, *(trait for trait, _ in method.refuses_beside)}
    for _, why in (*method.requires, *method.refuses, *method.refuses_beside):
        assert why.format(**WORDS).strip()


@pytest.mark.parametrize("trait", get_args(Trait))
def test_each_trait_is_some_methods(trait):
    assert [name for name, cls in methods().items() if trait in cls.traits]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("full >> merge", ["no adapter to fold"]),  # of two that are missing, the first
        ("prefix(4) >> merge", ["not a change of weights"]),
        ("torch_int8_dynamic >> full", ["no gradient flows"]),  # of two forms, the first that it declares
        ("nf4 >> full", ["the weights are quantized here"]),
        ("lora >> full", ["as in `… >> merge >> full`"]),
        ("prefix(4) >> full", ["so put `full` before it"]),
        (
            "full >> prune_ffn(0.5) >> low_rank(8) >> torchao_int4_weight_only(32)",
            ["rows of whole groups"],
        ),  # said once
        (
            "lora >> full + gradual(magnitude(0.5))",
            ["merge >> full", "merge >> magnitude(amount=0.5)"],
        ),  # the target's too
        ("full >> half >> full", ["made for inference only"]),
        ("full >> half >> low_rank(8)", []),
        ('full >> half >> prune_ffn(0.5, importance="l2")', []),
        ('full >> half >> prune_ffn(0.5, importance="taylor")', ["made for inference only"]),
        ("magnitude(0.9) >> sparse_storage >> compile_inference", ["no kernels for compressed rows"]),
        ("full + compile + qat_int8", ["leave out compile"]),
        ("full + early_stopping + ensemble", ["early_stopping stops by the validation loss of one member only"]),
    ],
)
def test_planning_refuses_by_declarations(text, said):
    context = at_the_end_of(text)
    declaring = [
        method for method in context.stage.methods if method.refuses or method.refuses_beside or method.requires
    ]
    found = [problem for method in declaring for problem in refusals.problems(method, context)]
    assert len(found) == len(said), found
    for part, problem in zip(said, found, strict=True):
        assert part in problem


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (
            {"refuses": (("adapter", "put {fact} first"),)},
            "full: `refuses` of its class has the sentence `put {fact} fir",
        ),
        ({"requires": (("sparse", "{models} is dense"),)}, "the unknown word `{models}`; did you mean `model`?"),
        (
            {"refuses": (("adapter", "leave out {other}"),)},
            "the unknown word `{other}`; known: fold, method, model, name",
        ),
        ({"refuses_beside": (("compiles", "{other.name} compiles"),)}, "the unknown word `{other.name}`; did you mean"),
        ({"refuses_beside": (("compiles", "{}"),)}, "the unknown word `{}`; known: fold, method, model, name, other"),
        ({"refuses": (("adapter", "a set is {1, 2"),)}, "write a brace that is meant twice"),
    ],
)
def test_an_unknown_word_is_an_error_whether_it_is_said_or_not(monkeypatch, declared, said):
    context = at_the_end_of("full")
    for name, sentences in declared.items():
        monkeypatch.setattr(type(context.stage.main), name, sentences)
    with pytest.raises(RecipeError) as error:
        list(refusals.problems(context.stage.main, context))
    assert said in str(error.value)
