"""The ``[task]`` table of a suite: one's own data as a task."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

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
    """One's own data as a task."""

    kind: Literal["classification", "causal_lm"] = Field(description="what is learned")
    data: Name = Field(description="a .csv or .jsonl file, for causal_lm also a .txt file, beside the suite file")
    text: Name = Field("text", description="the column that holds the text")
    label: Name = Field("label", description="the column that holds the label, for classification")
    name: Name | None = Field(None, description="what reports call it; the file's name otherwise")

    @model_validator(mode="after")
    def _no_label(self) -> Self:
        if self.kind == "causal_lm" and "label" in self.model_fields_set:
            raise ValueError("label: causal_lm learns from texts alone; leave it out")
        return self
