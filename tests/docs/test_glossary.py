"""The glossary: one sentence a term, every term in use, and no document with a name that was given up."""

import re
from pathlib import Path

import pytest

from bench.record.schema import STATUSES

ROOT = Path(__file__).parents[2]
GLOSSARY = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
ENTRIES = re.findall(r"^- (.*)$", GLOSSARY, re.M)
TERMS = re.findall(r"\*\*(.+?)\*\*", GLOSSARY)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [*PAGES, *(file for folder in ("bench", "methods", "reports") for file in (ROOT / folder).rglob("*.py"))]

# The changelog's tables say which names were given up, and for which others.
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
RENAMED = [
    row
    for table in CHANGELOG.split("| before | now |")[1:]
    for row in re.findall(r"^ +\| (`.*) \| (.*) \|$", table, re.M)
]
GIVEN_UP = {name for before, _ in RENAMED for name in re.findall(r"`(.+?)`", before)}


def test_each_term_has_one_sentence():
    assert len(TERMS) == len(ENTRIES) > 80
    for entry in ENTRIES:
        assert entry.count("**") == 2, entry
        assert entry.endswith("."), entry
        assert not re.search(r"[.!?] [A-Z]", entry), entry


def test_no_term_has_two_meanings():
    names = [term.lower() for term in TERMS]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("term", TERMS)
def test_every_term_is_used(term):
    # As a word of a text or as a part of a name, in the singular or in the plural: "suite folder", suite_folder.
    words = "[ _-]".join(map(re.escape, term.split()))
    pattern = re.compile(rf"(?<![a-z]){words}(s|es)?(?![a-z])", re.I)
    others = (file for file in SOURCES if file.name != "glossary.md")
    assert any(pattern.search(file.read_text(encoding="utf-8")) for file in others)


def test_every_end_of_a_stage_is_a_term():
    assert set(STATUSES) <= set(TERMS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_has_a_name_that_was_given_up(page):
    """In backticks and in drawings, where names stand; a recipe is taken apart into its methods."""
    text = page.read_text(encoding="utf-8")
    names = set(re.findall(r"\w+_\w+", " ".join(re.findall(r"^```text\n(.*?)^```", text, re.M | re.S))))
    for span in re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)):
        names |= {part.partition("(")[0].strip() for part in re.split(r">>|\+", span)}
    assert len(GIVEN_UP) > 40
    assert not names & GIVEN_UP
