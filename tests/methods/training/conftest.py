"""What tests of training methods share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.plan.context import PlanContext
from bench.recipe import recipe
from tests.subjects import HERE


@pytest.fixture(params=["tiny_bert", "tiny_llama"])
def model(request: pytest.FixtureRequest) -> Path:
    """An encoder and a decoder: two blocks 32 wide, 64 inside, where the decoder's keys and values are 16 wide."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def plan_context() -> Callable[..., PlanContext]:
    """Where the last stage of a recipe would run."""

    def plan_context(text: str, **keys: object) -> PlanContext:
        *before, stage = recipe.parse(text).stages
        values = {"machine": HERE, "task": "classification", "model": "bert", "batch_size": 16, "steps": 60} | keys
        return PlanContext(before=tuple(before), stage=stage, **values)

    return plan_context
