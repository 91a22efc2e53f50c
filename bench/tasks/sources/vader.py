"""Sentiment of short texts, rated by people: the data of Hutto and Gilbert, "VADER" (2014).

https://ojs.aaai.org/index.php/ICWSM/article/view/14550. Each text was rated by some twenty people from −4, extremely negative,
to 4, extremely positive; the label is their mean. The texts are in the source archive of the package vaderSentiment 0.5 (MIT)
alone: what pip installs of it lacks them. So the archive is read, and nothing of it is copied.
"""

from __future__ import annotations

import html
import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from bench.machine import cache
from bench.tasks.base import TaskError
from bench.tasks.items import Item
from bench.tasks.kinds.classification import Classification
from bench.tasks.kinds.regression import Regression

ARCHIVE = "vaderSentiment-0.5.zip"
SHA256 = "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a"
NEUTRAL = 0.5
"""Films' texts with a rating nearer to 0 are neither positive nor negative."""


def archive() -> Path:
    """Where the archive is to be."""
    return cache.folder() / "downloads" / ARCHIVE


class _Rated:
    """Rated texts: stands before their kind among the bases."""

    name: str
    file: ClassVar[str]
    """The name of the file in the archive, to the underscore."""

    def problems(self) -> list[str]:
        """Say how to get the archive where it is missing, or another one."""
        if not archive().is_file():
            return [
                f"{self.name}: {archive()} is missing; get it with `python -m pip download --no-deps --no-binary :all: "
                f"--dest {archive().parent} vaderSentiment==0.5`"
            ]
        if cache.sha256(archive()) != SHA256:
            return [f"{self.name}: {archive()} is damaged, or another release; delete it and get it again"]
        return []

    def kept_as(self) -> str:
        """A file by the texts' name: the archive never changes."""
        return f"vader/{self.name}-{SHA256[:16]}-1.arrow"

    def rated(self) -> Iterator[tuple[str, float]]:
        """Every text with its mean rating.

        Raises:
            TaskError: the archive is missing, or another one.
        """
        for problem in self.problems():
            raise TaskError(problem)
        with zipfile.ZipFile(archive()) as outer:
            inner = outer.read("vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz")
        with tarfile.open(fileobj=io.BytesIO(inner)) as files:
            found = files.extractfile(f"hutto_ICWSM_2014/{self.file}_GroundTruth.txt")
            assert found is not None
            content = found.read().decode("utf-8-sig")
        for line in content.split("\n"):
            if line.strip():
                _, rating, text = line.split("\t", 2)
                yield html.unescape(text).strip(), float(rating)


class _Ratings(_Rated, Regression):
    def read(self) -> Iterator[Item]:
        """Every text with its rating."""
        yield from (Item((text,), rating) for text, rating in self.rated())


class VaderTweets(_Ratings):
    """4,200 tweets with the mean of their ratings."""

    name = "vader-tweets"
    summary: ClassVar[str] = "tweets, rated by people; how positive is each, from −4 to 4?"
    file = "tweets"


class VaderFilms(_Ratings):
    """10,605 sentences of film reviews with the mean of their ratings."""

    name = "vader-films"
    summary: ClassVar[str] = "sentences of film reviews, rated by people; how positive is each, from −4 to 4?"
    file = "movieReviewSnippets"


class VaderProducts(_Ratings):
    """3,708 sentences of product reviews with the mean of their ratings. Neighbours may be in different splits."""

    name = "vader-products"
    summary: ClassVar[str] = "sentences of product reviews, rated by people; how positive is each, from −4 to 4?"
    file = "amazonReviewSnippets"


class VaderNews(_Ratings):
    """5,190 sentences of newspapers' comments with the mean of their ratings. Neighbours may be in different splits."""

    name = "vader-news"
    summary: ClassVar[str] = "sentences of newspapers' comments, rated by people; how positive is each, from −4 to 4?"
    file = "nytEditorialSnippets"


class VaderFilmsSentiment(_Rated, Classification):
    """Sentences of film reviews that are rated beyond ±:data:`NEUTRAL`: are they positive or negative?"""

    name = "vader-films-sentiment"
    summary: ClassVar[str] = "sentences of film reviews, rated by people; is each positive or negative?"
    file = "movieReviewSnippets"

    def read(self) -> Iterator[Item]:
        """Every text that is not neutral, with its class."""
        for text, rating in self.rated():
            if abs(rating) >= NEUTRAL:
                yield Item((text,), "positive" if rating > 0 else "negative")
