import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.recipe import recipe, registry
from bench.recipe.errors import RecipeError
from bench.recipe.method import Modifier, Trainer, Transform
from bench.recipe.recipe import parse
from methods.compression.pruning.magnitude import Magnitude
from methods.compression.pruning.prune_ffn import PruneFFN
from methods.compression.quantization.torch_int8_dynamic import TorchInt8Dynamic
from methods.training.adapters.lora import LoRA
from methods.training.full_and_partial.full import Full
from methods.training.optimization.accumulate import Accumulate
from methods.training.optimization.mixed_precision import MixedPrecision


@pytest.mark.parametrize(
    ("text", "objects", "canonical"),
    [
        ("full", Full(), "full"),
        ("full()", Full(), "full"),
        ("lora( 8 )", LoRA(r=8), "lora"),
        (
            "lora(r=16, targets=['query', \"value\"])",
            LoRA(16, targets=("query", "value")),
            'lora(r=16, targets=["query", "value"])',
        ),
        (
            "lora(r=4) + mixed_precision('bf16') + accumulate(4)",
            LoRA(r=4) + Accumulate(4) + MixedPrecision(),
            "lora(r=4) + accumulate(k=4) + mixed_precision",
        ),
        (
            "full >> prune_ffn(.5) >> full(share=.3)",
            Full() >> PruneFFN(0.5) >> Full(share=0.3),
            "full >> prune_ffn(amount=0.5) >> full(share=0.3)",
        ),
        (
            "full >> (magnitude(0.5) >> full)",
            Full() >> (Magnitude(0.5) >> Full()),
            "full >> magnitude(amount=0.5) >> full",
        ),
        (
            "full + accumulate(2) >> torch_int8_dynamic",
            Full() + Accumulate(2) >> TorchInt8Dynamic(),
            "full + accumulate(k=2) >> torch_int8_dynamic",
        ),
        ("lora(lr=1)", LoRA(lr=1), "lora(lr=1.0)"),
    ],
)
def test_text_and_python_give_the_same_recipe(text, objects, canonical):
    assert parse(text) == recipe.of(objects)
    assert str(parse(text)) == canonical
    assert parse(canonical) == parse(text)
    assert parse(parse(text).spell(defaults=True)) == parse(text)


def test_modifiers_have_no_order():
    assert parse("full + accumulate(2) + mixed_precision") == parse("full + mixed_precision + accumulate(2)")


def test_identity_text_names_every_argument():
    assert parse("full").spell(defaults=True) == "full(lr=0.0002, share=1.0)"


def test_defaults_fill_what_the_recipe_leaves_out():
    defaults = {"lora": {"r": 32, "lr": 0.1}}
    assert str(parse("lora(r=4) >> merge", defaults)) == "lora(r=4, lr=0.1) >> merge"
    assert str(parse("lora", defaults)) == "lora(r=32, lr=0.1)"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lorra(r=8)", "did you mean `lora`"),
        ("lora(rank=8)", "unknown argument `rank`"),
        ("lora(alpa=8)", "did you mean `alpha`"),
        ("lora(r=0)", "greater than or equal to 1, found 0"),
        ("lora(r='a')", "valid integer, found 'a'"),
        ("lora(r=True)", "valid integer, found True"),
        ("lora(r=1.5)", "valid integer, found 1.5"),
        ("lora(lr=1e999)", "not a literal"),
        ("lora(8, r=8)", "`r` is given twice"),
        ("lora(r=8, r=9)", "`r` is given twice"),
        ("accumulate(4)", "needs a trainer before it"),
        ("full + accumulate", "`k` is missing"),
        ("full + accumulate(4) + accumulate(2)", "there twice"),
        ("full + lora", "write `full >> lora`"),
        ("torch_int8_dynamic + accumulate(2)", "does not train"),
        ("(full >> torch_int8_dynamic) + accumulate(2)", "right behind the trainer"),
        ("full + (full >> full)", "use `>>`"),
        ("full(1, 2, 3)", "at most 2 (lr, share)"),
        ("merge(1)", "it takes none"),
        ('full + mixed_precision("fp8")', "found 'fp8'"),
        ("__import__('os').system('true')", "not in the grammar"),
        ("__import__('os')", "unknown method `__import__`"),
        ("full.lr", "not in the grammar"),
        ("[full for full in full]", "not in the grammar"),
        ("full if 1 else lora", "not in the grammar"),
        ("lambda: full", "not in the grammar"),
        ("full - lora", "not in the grammar"),
        ("lora(r=1+1)", "not a literal"),
        ("lora(*[8])", "not a literal"),
        ("lora(**{'r': 8})", "not in the grammar"),
        ("lora(r=f'{8}')", "not a literal"),
        ("8", "not in the grammar"),
        ("", "not a recipe"),
        ("full >>", "not a recipe"),
        ("full\x00", "not a recipe"),
        ("full; full", "not a recipe"),
        ("(" * 4000 + "full" + ")" * 4000, "nested"),
        (" >> ".join(["full"] * 1200), "nested"),
        ("full" + " " * 1_000_000, "at most 10000 characters"),
    ],
)
def test_what_is_not_a_recipe_says_why(text, says):
    with pytest.raises(RecipeError) as error:
        parse(text)
    assert says in str(error.value)
    assert len(str(error.value)) < 1000


@given(st.text(max_size=60))
def test_any_text_is_a_recipe_or_an_error(text):
    try:
        assert parse(str(parse(text))) == parse(text)
    except RecipeError as error:
        assert str(error)  # noqa: PT017


def test_objects_are_checked_like_text():
    with pytest.raises(RecipeError, match=r"lora: r: .* found 0"):
        LoRA(r=0)
    with pytest.raises(RecipeError, match="only a modifier joins"):
        Full() + LoRA()
    with pytest.raises(RecipeError, match="is not a method"):
        Full() >> 3


def test_every_example_parses_and_names_its_method():
    for name, cls in registry.methods().items():
        methods = [method for stage in parse(cls.example).stages for method in stage.methods]
        assert any(isinstance(method, cls) for method in methods), name


def test_every_method_says_where_it_is_described():
    for name, cls in registry.methods().items():
        assert cls.paper.startswith("https://"), name
        assert cls.__doc__, name
        assert cls.evidence.__doc__, name
        asked = {kind.evidence.__doc__ for kind in (Trainer, Modifier, Transform)}
        assert cls.evidence.__doc__ not in asked, f"{name} proves nothing of its own"


@pytest.mark.parametrize(
    ("text", "under"),
    [
        ("full >> lorra(r=8)", "lorra"),
        ("lora(lr=0.1, r=-3)", "r=-3"),
        ("full >> lora(q=3)", "q=3"),
        ("full + head", "head"),
        ("full >> magnitude('ä')", "'ä'"),
        ("full >> peft('ä', q=x)", "x"),
        ("full >> distill(student=lora(q=1))", "q=1"),
        ("full >> prune_ffn", "prune_ffn"),
        ("lora(r=2 + 3)", "2 + 3"),
        ("full >> (lora(\n  r=8,\n  q=3))", "q=3"),
        ("full >> )", ")"),
        ("full >>", ""),
        ("accumulate(4)", "accumulate"),
        (" >> ".join(["full"] * 40) + " >> lorra", "lorra"),
    ],
)
def test_a_caret_is_under_the_mistake(text, under):
    with pytest.raises(RecipeError) as error:
        parse(text)
    assert "\n" not in str(error.value)
    (note,) = error.value.__notes__
    shown, caret = note.split("\n")
    assert caret.strip() == "^"
    assert shown[caret.index("^") :].startswith(under)
    assert (shown[caret.index("^") :] == "") is (under == "")
    assert len(shown) <= 80
