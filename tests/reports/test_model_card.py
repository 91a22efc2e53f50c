"""The card of an exported model: what a reader needs to load it and to believe its figures, and what the hub reads."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from bench.compare.compare import compare
from bench.execute.export import Exported
from reports.model_card import model_card
from tests import synthetic
from tests.reports.test_hostile import KINDS

LOADING = {
    "library": "transformers",
    "load": "from transformers import AutoModel\n\nmodel = AutoModel.from_pretrained(folder)",
    "ask": "model(**inputs)",
    "packages": ("torch", "transformers"),
    "torch": True,
}


@pytest.fixture(scope="module")
def exported():
    (comparison,) = compare(synthetic.records())
    row = next(row for row in comparison.rows if row.name == "half FFN")
    return Exported(
        folder=Path("some/winner"),
        comparison=replace(comparison, suite={"title": "A suite", "seeds": [0, 1, 2]}, fingerprints={"task": "abc123"}),
        row=row,
        seed=1,
        first=False,
        format="transformers",
        kind="classification",
        hub="org/tiny",
        converted=False,
        loading=LOADING,
        reading="inputs = {}",
        proof={"items": 4, "off": 0.0, "allowed": 1e-4},
        vllm="",
    )


def head_of(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_the_hub_reads_what_it_is_and_the_figures_of_this_seed(exported):
    head = head_of(model_card(exported))
    assert head["library_name"] == "transformers"
    assert head["base_model"] == "org/tiny"
    assert head["pipeline_tag"] == "text-classification"
    (model,) = head["model-index"]
    assert model["name"] == "half FFN"
    (result,) = model["results"]
    (accuracy,) = [metric for metric in result["metrics"] if metric["type"] == "accuracy"]
    assert accuracy["value"] == exported.row.figures["accuracy"].by_seed[1]


def test_a_reader_finds_lines_figures_with_intervals_data_evidence_and_suite(exported):
    card = model_card(exported)
    assert "folder = 'winner'  # where this card is" in card
    assert f"{LOADING['load']}\n\ninputs = {{}}\noutputs = model(**inputs)\n```" in card
    figure, change = exported.row.figures["accuracy"], exported.row.changes["accuracy"]
    (line,) = [line for line in card.splitlines() if line.startswith("| Accuracy |")]
    assert str(figure) in line
    assert str(change) in line
    assert f"| {change.verdict} |".strip("| ") in line
    assert "- fingerprint of the task: `abc123`" in card
    assert '```toml\ntitle = "A suite"' in card
    for proof in exported.row.evidence:
        assert f"{proof.held} of {proof.of}" in card
    assert "seed 1, as the suite" in card
    assert "answered 4 test items as the recipe's own model does, bit for bit; 0.0001 is allowed" in card


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"first": True}, "seed 1 (the first of the suite; none was chosen by its figures)"),
        (
            {"proof": {"items": 1, "off": 3e-7, "allowed": 1e-4}},
            "answered 1 test item as the recipe's own model does, to 3e-07",
        ),
        (
            {"converted": True, "format": "onnx"},
            "That it answers the same in onnx is proven; what it costs there was not",
        ),
        (
            {"format": "peft", "loading": LOADING | {"load": 'f"{folder}/base"'}},
            "for the model in the folder `base` beside",
        ),
        ({"format": "peft"}, "The adapter is for `org/tiny`, which is loaded from the hub."),
        (
            {"vllm": "vllm serve FOLDER", "kind": "causal_lm"},
            "(methodbench has not run this):\n\n```console\n$ vllm serve",
        ),
        ({"kind": "causal_lm"}, "vLLM does not take it in this form"),
        ({"loading": LOADING | {"packages": ("onnxruntime",)}}, "# pip install onnxruntime transformers"),
    ],
)
def test_what_it_says_depends_on_what_the_folder_holds(exported, change, says):
    assert says in model_card(replace(exported, **change))


@pytest.mark.parametrize("text", KINDS.values(), ids=KINDS)
def test_names_are_text(exported, text):
    comparison = replace(exported.comparison, title=text, model=text, task=text, suite={"title": text})
    card = model_card(replace(exported, comparison=comparison, row=replace(exported.row, name=text, recipe=text)))
    assert head_of(card)["model-index"][0]["name"] == text
    assert "<script>" not in card.split("---\n", 2)[2].split("```toml")[0].replace("`<script>", "")
