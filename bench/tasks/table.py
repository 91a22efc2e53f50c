"""The ``[task]`` table of a suite: one's own data as a task."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from bench.machine.output import visible


class Strict(BaseModel):
    """A table of a suite file: unknown keys and other types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def readable(text: str) -> str:
    """`text`, as long as all of it can be seen.

    Raises:
        ValueError: it cannot.
    """
    if visible(text) != text:
        raise ValueError(f"it holds characters that cannot be seen, found {text!a}; take them out")
    return text


Name = Annotated[str, Field(min_length=1), AfterValidator(readable)]


class DataTable(Strict):
    """One's own data as a task: what the tables of all kinds of task have. A kind adds keys in a subclass."""

    kind: Name = Field(description="what is learned")
    data: Name = Field(description="the file, beside the suite file")
    text: Name = Field("text", description="the column that holds the text")
    name: Name | None = Field(None, description="what reports call it; the file's name otherwise")
