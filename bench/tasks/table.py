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


Split = Literal["train", "validation", "test"]

Name = Annotated[str, Field(min_length=1), AfterValidator(readable)]


class DataTable(Strict):
    """One's own data as a task: what the tables of all kinds of task have. A kind adds keys in a subclass."""

    kind: Name = Field(description="what is learned")
    data: Name | None = Field(
        None,
        description="the file, beside the suite file; or a folder saved by datasets, or a data set's name on the hub",
    )
    train: Name | None = Field(None, description="the file of the training items, where splits are files of their own")
    validation: Name | None = Field(None, description="the file of the validation items; a tenth of train otherwise")
    test: Name | None = Field(None, description="the file of the test items")
    config: Name | None = Field(None, description="the configuration of a data set of the hub, as sst2 of glue")
    revision: Name | None = Field(None, description="the revision of a data set of the hub: a commit, tag or branch")
    splits: dict[Split, Name] = Field(
        {}, description="which split of the data set is used for train, validation and test, where names differ"
    )
    max_items: int | None = Field(None, ge=1, description="items of each split that are used, at most")
    few_shot: int | None = Field(
        None, ge=1, description="training items that are used: of each class, or in all where there are no classes"
    )
    near_duplicates: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="leave out items whose words are alike from this Jaccard similarity on, by MinHash, as 0.8; none otherwise",
    )
    group_by_length: bool = Field(
        False, description="put training items of like length into a batch, for little padding"
    )
    metric: Name | None = Field(None, description="the metric that ranks recipes; the kind's first otherwise")
    name: Name | None = Field(None, description="what reports call it; the file's name otherwise")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        files = [key for key in ("train", "validation", "test") if getattr(self, key)]
        if self.data is None and "train" not in files:
            raise ValueError("name the data: one file in `data`, or one for each split in `train` and `test`")
        if self.data is not None and files:
            raise ValueError(f"`data` and `{files[0]}` name the data twice; leave one of them out")
        if self.data is None and "test" not in files:
            raise ValueError(
                "`test` is missing beside `train`; name the file that models are scored on, or give one file in `data`"
            )
        return self


class TextTable(DataTable):
    """Texts in one column."""

    text: Name = Field("text", description="the column that holds the text")


class PairTable(DataTable):
    """Texts, or pairs of texts."""

    text: Name | Annotated[list[Name], Field(min_length=2, max_length=2)] = Field(
        "text", description='the column that holds the text, or the two of a pair, as ["premise", "hypothesis"]'
    )

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns that hold the text or the texts."""
        return (self.text,) if isinstance(self.text, str) else tuple(self.text)
