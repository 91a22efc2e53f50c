"""The data that calibrates: which file or task it is, and what becomes of its texts."""

import json

import pytest
import torch

from bench.models.registry import open_model
from bench.tasks.base import TaskError
from bench.tasks.calibration import TextFile, open_data
from bench.testing import tiny


def written(folder, name, texts):
    file = folder / name
    if file.suffix == ".txt":
        file.write_text("\n".join(texts))
    elif file.suffix == ".csv":
        file.write_text("\n".join(["text", *texts]))
    else:
        file.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return name


@pytest.mark.parametrize("name", ["some.csv", "some.jsonl"])
def test_each_row_is_an_item_in_the_files_order_and_equal_ones_count_once(name, tmp_path):
    data = open_data(written(tmp_path, name, ["pear", "apple", "pear", "iron"]), tmp_path)
    assert isinstance(data, TextFile)
    assert data.texts == ("pear", "apple", "iron")
    assert data.training_items() == 3
    assert data.problems() == []


def test_a_text_file_is_cut_into_passages(tmp_path):
    data = open_data(written(tmp_path, "some.txt", ["pear " * 300 + str(number) for number in range(10)]), tmp_path)
    assert 2 <= data.training_items() <= 10
    assert "".join(data.texts) == (tmp_path / "some.txt").read_text()


def test_the_fingerprint_is_of_the_texts_and_not_of_how_they_are_written(tmp_path):
    files = [written(tmp_path, name, texts) for name, texts in
             (("a.csv", ["pear", "iron"]), ("b.jsonl", ["pear", "iron"]), ("c.csv", ["pear", "tin"]))]  # fmt: skip
    one, same, other = (open_data(file, tmp_path).fingerprint() for file in files)
    assert one == same != other


def test_items_are_the_tokens_of_texts_as_the_tokenizer_has_them_cut_at_the_length(tmp_path):
    data = open_data(written(tmp_path, "some.csv", ["pear", "a much longer text"]), tmp_path)
    _, tokenizer = open_model(str(tiny.bert(tmp_path / "bert")), tmp_path).load("AutoModel", {})
    (batch,) = data.batches("train", tokenizer, batch_size=4, max_length=8)
    ids = batch.inputs["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids[0].tolist()) == [
        "[CLS]",
        "p",
        "##e",
        "##a",
        "##r",
        "[SEP]",
        "[PAD]",
        "[PAD]",
    ]
    assert batch.lengths == (6, 8)
    assert batch.inputs["attention_mask"].sum(1).tolist() == [6, 8]


def test_shuffled_batches_have_no_end_and_are_those_of_the_seed(tmp_path):
    data = open_data(written(tmp_path, "some.csv", list("abcdefgh")), tmp_path)
    _, tokenizer = open_model(str(tiny.bert(tmp_path / "bert")), tmp_path).load("AutoModel", {})

    def drawn(seed):
        batches = data.batches(
            "train", tokenizer, batch_size=3, max_length=8, generator=torch.Generator().manual_seed(seed)
        )
        return [next(batches).items for _ in range(8)]

    assert drawn(0) == drawn(0) != drawn(1)
    flat = [item for items in drawn(0) for item in items]
    assert sorted(flat[:8]) == sorted(flat[8:16]) == list(range(8))


def test_a_registered_task_is_one_too():
    assert open_data("stdlib-topics", None).name == "stdlib-topics"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("stdlib-topic", "`stdlib-topic` is no task; did you mean `stdlib-topics`?"),
        ("trian", "`trian` is no task; did you mean `train`?"),
        ("data.pdf", "a file beside the suite (.csv"),
    ],
)
def test_what_is_neither_is_told_with_the_nearest(spec, said, tmp_path):
    with pytest.raises(TaskError) as error:
        open_data(spec, tmp_path)
    assert said in str(error.value)


def test_a_file_that_cannot_be_used_says_why(tmp_path):
    written(tmp_path, "here.csv", ["pear"])
    (tmp_path / "other.csv").write_text("body\npear")
    assert "no such file; did you mean `here.csv`?" in open_data("her.csv", tmp_path).problems()[0]
    assert "it has no column `text`" in open_data("other.csv", tmp_path).problems()[0]
