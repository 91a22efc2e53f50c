import re
from dataclasses import replace

import pytest

from reports.gate import markdown
from tests.reports.gate import verdicts
from tests.reports.gate.verdicts import MEMORY, SLOWER


def cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables(text):
    return [table.splitlines() for table in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)]


def test_regressions_come_first_and_passes_are_folded():
    text = markdown.page(verdicts.VERDICT)
    assert text.startswith("## Regression: `lora` is 5.1 % slower (4.3 to 5.9 %) in training throughput;")
    found = [text.index(part) for part in ("### Regressions: 1", "aten::mm", "### Cannot be told: 1", "<details>")]
    assert found == sorted(found)
    folded = re.findall(r"<details><summary>(\w+): (\d)</summary>\n\n.*?</details>", text, re.DOTALL)
    assert folded == [("Passed", "2"), ("Skipped", "1")]
    assert "| commit | 1111111 | 2222222+changes |" in text
    assert "| module bench | /base/bench/\\_\\_init\\_\\_.py | /head/bench/\\_\\_init\\_\\_.py |" in text


@pytest.mark.parametrize("verdict", [verdicts.VERDICT, verdicts.hostile()], ids=["plain", "hostile"])
def test_every_row_has_as_many_cells_as_its_head(verdict):
    found = tables(markdown.page(verdict))
    assert len(found) >= 5
    for lines in found:
        assert {len(cells(line)) for line in lines} == {len(cells(lines[0]))}


def test_names_are_text():
    text = markdown.page(verdicts.hostile())
    assert all(line.isprintable() for line in text.split("\n"))
    outside = re.sub(r"`[^`]*`", "", re.sub(r"\\`", "", text))
    assert set(re.findall(r"<[^>]*>", outside)) == {"<details>", "</details>", "<summary>", "</summary>"}


@pytest.mark.parametrize("most", [markdown.SUMMARY, markdown.COMMENT, 10_000])
def test_it_fits_whatever_the_number_of_checks_and_says_how_many_are_left_out(most):
    many = verdicts.many()
    long = replace(many, checks=tuple(replace(check, reason="ü" * 400) for check in many.checks))
    text = markdown.page(long, most)
    assert len(text.encode()) <= most
    (left_out,) = re.findall(r"([\d,]+) more checks left out here", text)
    shown = len(re.findall(r"^\| recipe-\d", text, re.MULTILINE))
    assert shown > 10
    assert int(left_out.replace(",", "")) == 5_000 - shown
    assert "### Regressions: 1,000" in text  # all there are, not all that are shown


def test_without_room_there_is_nothing():
    assert markdown.page(verdicts.VERDICT, 500) == ""


def test_very_long_texts_do_not_crowd_out_the_checks():
    name, texts = "x" * 100_000, tuple("y" * 100_000 for _ in range(100))
    verdict = verdicts.of(replace(SLOWER, recipe=name), MEMORY, suite=name, doubts=texts, notes=texts)
    text = markdown.page(verdict, markdown.COMMENT)
    assert len(text) < 20_000
    assert "80 more are in gate.json" in text
    assert "| lora | Size on disk |" in text
