"""Relation extraction: the class of the relation between two entities of a text, whose places are known."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from bench.tasks.alike import comparable
from bench.tasks.items import Item
from bench.tasks.kinds.classification import Classification, ClassificationTable
from bench.tasks.rows import Row
from bench.tasks.table import DataTable, Name

MARKERS = (("[E1]", "[/E1]"), ("[E2]", "[/E2]"))
"""What stands around the head and around the tail."""


class RelationTable(ClassificationTable):
    """One's own texts, with two entities and the class of their relation each."""

    text: Name = Field("text", description="the column that holds the text")
    head: Name = Field(
        "head",
        description="the column that holds the first entity: [start, end] in characters, or its text if that occurs once",
    )
    tail: Name = Field("tail", description="the column that holds the second entity, as `head`")
    label: Name = Field("label", description="the column that holds the relation")


class RelationExtraction(Classification):
    """A class for each text with two entities, around which :data:`MARKERS` are put.

    "Entity markers" of Baldini Soares et al., "Matching the Blanks" (2019), https://doi.org/10.18653/v1/P19-1279, as plain
    text: they are no new tokens, so that embeddings stay as they are, and all is classification else.
    """

    kind = "relation_extraction"
    learns = "from texts with two entities and a class each"
    table = RelationTable
    labels_texts = False  # other words would lose the markers

    @classmethod
    def from_table(cls, table: DataTable, suite_folder: Path) -> RelationExtraction:
        """One's own data."""
        return cls(table, suite_folder)

    @classmethod
    def columns(cls, table: RelationTable) -> tuple[str, ...]:  # type: ignore[override]
        """The text, both entities and the relation."""
        return table.text, table.head, table.tail, table.label

    def item(self, row: Row) -> Item:
        """The text of a row with the entities marked, and its class."""
        text, head, tail, label = row.rows.columns
        written = row.text(text)
        spans = [_span(row, column, written, text) for column in (head, tail)]
        return Item((marked(written, *spans).strip(),), self._label(row, label))


def _span(row: Row, column: str, text: str, text_column: str) -> tuple[int, int]:
    """Where an entity begins and ends in `text`, in characters."""
    value = row.values[column]
    parts = value.split() if isinstance(value, str) and row.rows.flat else value
    if isinstance(parts, list) and len(parts) == 2 and all(str(part).isdecimal() for part in parts):
        start, end = map(int, parts)
        if not (start < end <= len(text) and comparable(text[start:end])):
            raise row.error(
                f"`{column}` is characters {start} to {end}, and `{text_column}` has {len(text)}; give [start, end] with the "
                "first character's number and the number after the last one's, from 0"
            )
        return start, end
    if not isinstance(value, str):
        raise row.error(f"`{column}` is an entity, as [3, 8] or as its text, found {value!r:.60}")
    name = row.text(column).strip()
    if (times := text.count(name)) != 1:
        raise row.error(
            f"`{column}` is `{name}`, which is {times or 'not'}{' times' if times else ''} in `{text_column}`; give its place, "
            "as [start, end] in characters"
        )
    start = text.index(name)
    return start, start + len(name)


def marked(text: str, head: tuple[int, int], tail: tuple[int, int]) -> str:
    """`text` with markers around both spans, which may be inside of one another."""
    signs = [
        (place, order, length, marker)
        for (start, end), (opens, closes) in zip((head, tail), MARKERS, strict=True)
        # At one place, what ends comes first; then the longer one begins first, and the one that began last ends first.
        for place, order, length, marker in ((end, 0, end - start, f" {closes}"), (start, 1, start - end, f"{opens} "))
    ]
    for place, _, _, marker in sorted(signs, reverse=True):
        text = text[:place] + marker + text[place:]
    return text
