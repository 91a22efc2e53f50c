from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from bench.tasks.registry import open_task
from bench.tasks.sources import vader

REAL = vader.archive()  # before tests have a cache of their own
NAMES = {
    "vader-tweets": 4200,
    "vader-films": 10605,
    "vader-products": 3708,
    "vader-news": 5190,
    "vader-films-sentiment": 10072,
}


@pytest.fixture
def own_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive made up for the test, in a cache of its own."""
    monkeypatch.setenv("METHODBENCH_CACHE", str(tmp_path / "cache"))
    files = {
        "tweets": [f"{n}\t{n % 9 - 4}.5\tTweet &amp; {n}" for n in range(60)],
        "movieReviewSnippets": [f"{n}\t{n % 3 - 1}.{n % 2}\tFilm \t{n}" for n in range(90)],
    }
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as found:
        for name, lines in files.items():
            content = ("\ufeff" + "\r\n".join(lines)).encode()
            info = tarfile.TarInfo(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
            info.size = len(content)
            found.addfile(info, io.BytesIO(content))
    vader.archive().parent.mkdir(parents=True)
    with zipfile.ZipFile(vader.archive(), "w") as outer:
        outer.writestr("vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz", inner.getvalue())
    monkeypatch.setattr(vader, "SHA256", hashlib.sha256(vader.archive().read_bytes()).hexdigest())
    return vader.archive()


def test_ratings_are_read(own_archive: Path) -> None:
    task = open_task("vader-tweets", Path())
    assert task.problems() == []
    items = list(task.read())  # type: ignore[attr-defined]
    assert (items[5].texts, items[5].answer) == (("Tweet & 5",), 1.5)
    assert len(items) == 60


def test_neutral_texts_have_no_sentiment(own_archive: Path) -> None:
    task = open_task("vader-films-sentiment", Path())
    items = list(task.read())  # type: ignore[attr-defined]
    assert {(n, item.answer) for n, item in enumerate(items[:3])} == {(0, "negative"), (1, "positive"), (2, "negative")}
    assert len(items) == 60, "a third is 0 or 0.1"


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_archive_is_said_with_the_command(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METHODBENCH_CACHE", str(tmp_path / "cache"))
    (problem,) = open_task(name, Path()).problems()
    assert problem == (
        f"{name}: {tmp_path}/cache/downloads/vaderSentiment-0.5.zip is missing; get it with `python -m pip download --no-deps "
        f"--no-binary :all: --dest {tmp_path}/cache/downloads vaderSentiment==0.5`"
    )


def test_another_archive(own_archive: Path) -> None:
    own_archive.write_bytes(b"else")
    (problem,) = open_task("vader-films", Path()).problems()
    assert problem.endswith("is damaged, or another release; delete it and get it again")


@pytest.mark.skipif(not REAL.is_file(), reason=f"{REAL} is missing: get it as the task says")
@pytest.mark.parametrize("name", NAMES)
def test_the_real_archive(name: str) -> None:
    vader.archive().parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(REAL, vader.archive())
    task = open_task(name, Path())
    assert task.problems() == []
    assert task.counts()["read"] == NAMES[name]
    assert len(task.texts("test")) > 0.15 * NAMES[name]  # type: ignore[attr-defined]
