"""Nine recipes on each of many architectures: each ends ``ok``, or is refused at planning with a true reason."""

from pathlib import Path

import pytest

from bench import machine, plan, recipe
from bench.suite import of
from tests import architectures, jobs

RECIPES = (
    "full",
    "head",
    "lora(r=4)",
    "prefix(4)",
    "adapter(size=8)",
    "full >> prune_ffn(0.5)",
    "full >> prune_heads(0.5)",
    "full >> nf4",
    "full >> dynamic_int8",
)

REFUSED = {
    # the whole model
    "mamba": "no AutoModelForSequenceClassification for a mamba model",
    "vit": "no AutoModelForSequenceClassification for a vit model",
}


def ends(model: Path, folder: Path, text: str) -> tuple[str, str]:
    """How a recipe ends on a model, and why."""
    data = jobs.table(folder)
    suite = of({
        "model": str(model), "task": data.model_dump(), "recipes": {"r": text},
        "budget": {"steps": 3, "batch_size": 8, "max_length": 32}, "measure": {"latency": []},
    })  # fmt: skip
    here = machine.look("cpu", 1)
    if reasons := plan.make(suite, folder, here).cells[0].refused:
        return "refused", "; ".join(reasons)
    status, reason, _ = jobs.run(text, model, folder, task=data, budget={"steps": 3}, measure={"latency": []})
    return status, reason


@pytest.mark.slow
@pytest.mark.parametrize("name", architectures.MODELS)
def test_recipes_end_ok_or_are_refused_before_anything_runs(name, tmp_path):
    model = architectures.make(name, tmp_path)
    found = {text: ends(model, tmp_path, text) for text in RECIPES}
    if name in REFUSED:
        assert all(status == "refused" and REFUSED[name] in why for status, why in found.values()), found
        return
    wrong = {text: end for text, end in found.items() if end[0] not in ("ok", "refused")}
    assert not wrong
    # Whatever the architecture, these need to know nothing of it.
    assert all(found[text][0] == "ok" for text in ("full", "head", "lora(r=4)")), found


def test_what_is_refused_says_what_stands_in_the_way(tmp_path):
    model = architectures.make("gpt2", tmp_path)
    status, why = ends(model, tmp_path, "full >> nf4")
    assert status == "refused"
    assert "Conv1D" in why
    assert recipe.parse("full >> nf4")
