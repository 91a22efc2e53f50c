"""Images in folders, in Parquet and as datasets saves them, and a vision transformer that learns from them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from bench.models.registry import open_model
from bench.plan import plan
from bench.suite.suite import of
from bench.tasks.kinds.image_classification import ImagesTable
from bench.tasks.registry import open_task
from bench.testing import jobs
from tests import architectures
from tests.subjects import HERE

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks for it
Image: Any = pytest.importorskip("PIL.Image", reason="pillow is not installed")

COLORS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


def picture(color: str, number: int) -> Any:
    return Image.new("RGB", (20 + number % 5, 24), tuple(part + number % 40 for part in COLORS[color]))


def draw(folder: Path, color: str, numbers: range, suffix: str = "png") -> None:
    (folder / color).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        picture(color, number).save(folder / color / f"{number}.{suffix}")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """120 images of three classes."""
    for color in COLORS:
        draw(tmp_path / "images", color, range(40))
    return tmp_path / "images"


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ViT with its image processor, and without a tokenizer."""
    import transformers

    folder = architectures.make("vit", tmp_path_factory.mktemp("vit"))
    for file in folder.glob("tokenizer*"):
        file.unlink()
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def table(data: Path, **keys: Any) -> ImagesTable:
    return ImagesTable(kind="image_classification", data=str(data), **keys)


def test_a_folder_of_folders(images: Path) -> None:
    task = open_task(table(images), images)
    assert task.problems() == []
    assert task.name == "images"
    counts = task.counts()
    assert counts["read"] == 120
    assert sum(counts[split] for split in ("train", "validation", "test")) == 120
    assert task.labels == ("blue", "green", "red")  # type: ignore[attr-defined]
    before = task.fingerprint()
    Image.new("RGB", (50, 50)).save(images / "red" / "99.png")
    assert open_task(table(images), images).fingerprint() != before


def test_official_splits_and_equal_images(tmp_path: Path) -> None:
    for color in COLORS:
        draw(tmp_path / "train", color, range(10))
        draw(tmp_path / "test", color, range(8, 14))
    task = open_task(table(tmp_path), tmp_path)
    assert task.problems() == []
    counts = task.counts()
    assert counts["test"] == 18
    assert counts["in_two_splits"] == 6  # two of each colour, whose bytes are the same
    assert counts["train"] + counts["validation"] == 24


@pytest.mark.parametrize("way", ["parquet", "saved"])
def test_a_column_of_images(way: str, tmp_path: Path) -> None:
    import datasets

    rows = [(color, number) for color in COLORS for number in range(12)]
    if way == "parquet":
        import pyarrow as pa
        import pyarrow.parquet

        contents = []
        for color, number in rows:
            kept = io.BytesIO()
            picture(color, number).save(kept, "PNG")
            contents.append({"bytes": kept.getvalue(), "path": f"{number}.png"})
        found = pa.table({"img": contents, "label": [color for color, _ in rows]})
        pyarrow.parquet.write_table(found, tmp_path / "data.parquet")
        given = table(tmp_path / "data.parquet", image="img")
    else:
        features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list(COLORS))})
        images = {"img": [picture(*row) for row in rows], "label": [list(COLORS).index(color) for color, _ in rows]}
        datasets.Dataset.from_dict(images, features=features).save_to_disk(str(tmp_path / "saved"))
        given = table(tmp_path / "saved", image="img")
    task = open_task(given, tmp_path)
    assert task.problems() == []
    assert task.counts()["read"] == 36
    assert set(task.labels) == set(COLORS)  # type: ignore[attr-defined]


def test_a_batch_by_hand(images: Path, vit: Path) -> None:
    import torch

    task = open_task(table(images), images)
    model, processor = open_model(str(vit), vit).load(*task.model_options())
    batch = next(task.batches("test", processor, batch_size=4, max_length=8))
    assert batch.inputs["pixel_values"].shape == (4, 3, 32, 32)
    assert batch.lengths == batch.terms == (1, 1, 1, 1)
    for place, target in enumerate(batch.labels.tolist()):
        color = task.labels[target]  # type: ignore[attr-defined]
        strongest = int(batch.inputs["pixel_values"][place].mean((1, 2)).argmax())
        assert strongest == ["red", "green", "blue"].index(color)
    # 200 of 255 in [0, 1], less the mean of 0.5, over the deviation of 0.5.
    first = batch.inputs["pixel_values"].amax()
    assert 2 * 200 / 255 - 1 <= float(first) <= 2 * 239 / 255 - 1 + 1e-6
    with torch.no_grad():
        assert model(**batch.inputs).logits.shape == (4, 3)


@pytest.mark.parametrize("text", ["full(lr=3e-3)", "head", "lora(r=4)", "full >> bnb_int8"])
def test_a_vision_transformer_runs(text: str, images: Path, vit: Path) -> None:
    task = table(images)
    suite = of(
        {
            "model": str(vit),
            "task": task.model_dump(exclude_unset=True),
            "recipes": {"r": text},
            "measure": {"latency": []},
        }
    )
    (cell,) = plan.make(suite, images, HERE).cells
    assert cell.refused == ()
    status, reason, records = jobs.run(
        text, vit, images.parent, task=task, budget={"steps": 20}, measure={"latency": []}
    )
    assert status == "ok", reason
    assert records[0]["training"]["samples"][0] == 8
    if text.startswith("full("):
        assert records[-1]["quality"]["metrics"]["accuracy"] == 1


def refused(model: Path, task: Any, folder: Path, **keys: Any) -> str:
    suite = of({"model": str(model), "task": task.model_dump(exclude_unset=True), "recipes": {"r": "full"}, **keys})
    (cell,) = plan.make(suite, folder, HERE).cells
    return "; ".join(cell.refused)


def test_what_does_not_fit_is_refused(images: Path, vit: Path, tiny_bert: Path) -> None:
    assert "reads no images" in refused(tiny_bert, table(images), images)
    assert "measure.latency: it is measured for lengths in tokens" in refused(vit, table(images), images)
    assert "no AutoModelForSequenceClassification for a vit model" in refused(
        vit, jobs.table(images.parent), images.parent
    )


def test_methods_that_read_texts_are_refused(images: Path, vit: Path) -> None:
    recipes = {
        "adversarial": 'full + adversarial("fgm")',
        "neftune": "full + neftune",
        "augment": "full + augment('eda')",
        "prompt": "prompt(2)",
        "wanda": "full >> wanda(0.5)",
        "gptq": "full >> gptq",
        "onnx": "full >> onnx",
    }
    suite = of(
        {
            "model": str(vit),
            "task": table(images).model_dump(exclude_unset=True),
            "recipes": recipes,
            "measure": {"latency": []},
        }
    )
    assert all(cell.refused for cell in plan.make(suite, images, HERE).cells)


def cut(folder: Path) -> None:
    file = folder / "red" / "0.png"
    file.write_bytes(file.read_bytes()[:40])


def no_image(folder: Path) -> None:
    (folder / "red" / "0.png").write_text("hello")


def flat(folder: Path) -> None:
    for file in list(folder.glob("*/*.png")):
        file.rename(folder / f"{file.parent.name}-{file.name}")


def train_alone(folder: Path) -> None:
    draw(folder / "train", "red", range(3))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (cut, "red/0.png: image 1: `image` cannot be read as an image"),
        (no_image, "red/0.png: image 1: `image` cannot be read as an image"),
        (flat, "it has no images (.png, .jpg, .jpeg) in folders that are called as their classes"),
        (train_alone, "it has a folder train and no folder test"),
    ],
)
def test_faults(harm: Any, said: str, images: Path) -> None:
    harm(images)
    (problem,) = open_task(table(images), images).problems()
    assert said in problem.replace(f"image {121 - 40}", "image 1")
