"""``methodbench show``."""

import json

from tests.command import methodbench


def test_show_has_all_there_is_to_know():
    page = methodbench("show", "lora")
    for part in (
        "lora  (trainer)",
        "r ",
        "int ≥ 1 ≤ 65536, default 8",
        "Evidence",
        "https://arxiv.org/abs/2106.09685",
        "lora(r=8)",
        "peft",
    ):
        assert part in page, part
    assert json.loads(methodbench("show", "lora", "--json"))["arguments"][0] == {
        "name": "r",
        "type": "int ≥ 1 ≤ 65536",
        "default": 8,
    }
    assert "Breaks with" not in page
    assert "Breaks with\n  it does not work on classification, " in methodbench("show", "prefix")
    assert "22.7 million" in methodbench("show", "minilm")
    assert "did you mean `lora`" in methodbench("show", "lorra", status=2)
