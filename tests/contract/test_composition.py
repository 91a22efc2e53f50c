"""Random recipes of the registry: each ends ``ok`` or was refused at planning, with a reason."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.machine import machine
from bench.plan import plan
from bench.plan.plan import Subject
from bench.recipe import recipe
from bench.recipe.method import Method, Modifier, Trainer
from bench.suite.suite import of
from bench.tasks.table import DataTable
from bench.testing import jobs
from tests.contract.test_contract import METHODS, SLOW

LIGHT = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)
FULL = settings(LIGHT, max_examples=120)


def spelled(kind: type[Method]) -> list[str]:
    """The methods of a kind, with the arguments that their contract gives them."""
    found = {}
    for name, recipes in METHODS.items():
        for text in recipes.values() if name not in SLOW else ():
            for stage in recipe.parse(text).stages:
                found |= {
                    str(method): None for method in stage.methods if method.name == name and isinstance(method, kind)
                }
    return sorted(found)


def recipes() -> st.SearchStrategy[str]:
    modifiers = st.lists(st.sampled_from(spelled(Modifier)), max_size=3, unique_by=lambda text: text.split("(")[0])
    trained = st.tuples(st.sampled_from(spelled(Trainer)), modifiers).map(lambda pair: " + ".join([pair[0], *pair[1]]))
    others = sorted(set(spelled(Method)) - set(spelled(Trainer)) - set(spelled(Modifier)))
    return st.lists(trained | st.sampled_from(others), min_size=1, max_size=4).map(" >> ".join)


def check(text: str, model: Path, task: Callable[[Path], DataTable]) -> None:
    parsed = recipe.parse(text)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = task(folder)
        suite = of({
            "model": str(model), "task": data.model_dump(exclude_unset=True), "recipes": {"drawn": text},
            "budget": {"steps": 3, "batch_size": 8, "max_length": 32},
        })  # fmt: skip
        here = machine.look("cpu", 2)
        subject: Subject = plan.make(suite, folder, here).cells[0].subject
        if reasons := plan.refusals(parsed, subject, suite, here):
            assert all(len(reason) > 20 for reason in reasons), reasons
            return
        status, reason, _ = jobs.run(text, model, folder, task=data, budget={"steps": 3})
        # What planning cannot know, as the sizes of what is trained, is refused when the training is put together.
        assert status == "ok" or (status == "refused" and len(reason) > 20), f"{text}: {status}: {reason}"


@given(text=recipes())
@LIGHT
def test_a_recipe_that_planning_allows_runs(text, tiny_bert):
    check(text, tiny_bert, jobs.table)


@given(text=recipes())
@LIGHT
def test_a_recipe_that_planning_allows_runs_on_a_decoder(text, tiny_llama):
    check(text, tiny_llama, jobs.table)


@given(text=recipes())
@LIGHT
def test_a_recipe_that_planning_allows_runs_on_language_modelling(text, tiny_llama):
    check(text, tiny_llama, jobs.prose)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@given(text=recipes())
@FULL
def test_many_recipes_that_planning_allows_run(text, tiny_bert):
    check(text, tiny_bert, jobs.table)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@given(text=recipes())
@FULL
def test_many_recipes_that_planning_allows_run_on_a_decoder(text, tiny_llama):
    check(text, tiny_llama, jobs.table)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@given(text=recipes())
@FULL
def test_many_recipes_that_planning_allows_run_on_language_modelling(text, tiny_llama):
    check(text, tiny_llama, jobs.prose)


@pytest.mark.parametrize(
    "text",
    [
        "low_rank(1) >> torch_int8_dynamic",  # scales outweigh what such layers save
        "low_rank(1) >> bnb_int8",  # torch's product of a single column
        "full + gradual(magnitude(0.9)) >> sparse_storage",
        "full >> prune_hidden(0.3) >> distill(layers=1)",  # a hidden size that the heads do not divide
        'ia3 + mixed_precision("fp16")',  # an overflow that is not a number
        'full >> low_rank(2) >> distill(layers=1, match="attention")',
        "drop_layers(1) >> top_layers(2)",
    ],
)
def test_recipes_that_random_draws_once_broke(text, tiny_llama):
    check(text, tiny_llama, jobs.table)
