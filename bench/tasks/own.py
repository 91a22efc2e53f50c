"""One's own data, as a suite's ``[task]`` table names it: files, a folder saved by datasets, or a data set of the hub."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from bench.machine import cache
from bench.machine.paths import PathError, find
from bench.recipe.errors import first_line, nearest
from bench.tasks.base import TaskError
from bench.tasks.rows import SUFFIXES, Row, Rows
from bench.tasks.table import DataTable, Split

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
"""``name`` or ``organisation/name``."""


class OwnData:
    """The rows of one's own data, each with the split that it is in, or None where the data has none.

    Raises:
        TaskError: a file is on no path that there can be.
    """

    def __init__(self, table: DataTable, suite_folder: Path, columns: Sequence[str]) -> None:
        self.columns = columns
        self._table = table
        self._files: dict[str, Path] = {}
        for key in ("data", "train", "validation", "test"):
            if given := getattr(table, key):
                try:
                    self._files[key] = find(given, suite_folder)
                except PathError as error:
                    raise TaskError(f"task.{key}: {error}") from None
        first = self._files.get("data") or self._files["train"]
        self.name = table.name or (f"{table.data}/{table.config}" if table.config else first.stem)

    def __iter__(self) -> Iterator[tuple[Split | None, Row]]:
        from tqdm import tqdm

        for split, rows in self.parts.items():
            # Millions of rows take minutes, once; on a terminal it is shown how far they are.
            for row in tqdm(
                rows, f"reading {rows.file.name}", unit=" rows", unit_scale=True, delay=2, leave=False, disable=None
            ):
                yield split, row

    def fingerprint(self) -> str:
        """A SHA-256 over the contents of all files, or of a data set of the hub, over its commit.

        Raises:
            TaskError: one cannot be read.
        """
        # Without datasets, whose import takes a second: each stage asks.
        if self._on_hub and (snapshot := self._snapshot()):
            return hashlib.sha256(f"{self._table.data} {snapshot.name}".encode()).hexdigest()
        found = [f"{split} {rows.fingerprint()}" for split, rows in self.parts.items()]
        return hashlib.sha256("\n".join(found).encode()).hexdigest()

    @functools.cached_property
    def parts(self) -> Mapping[Split | None, Rows]:
        """The rows of each split.

        Raises:
            TaskError: the data cannot be found.
        """
        if "data" not in self._files:
            return {cast("Split", key): Rows(file, self.columns) for key, file in self._files.items()}
        file = self._files["data"]
        if file.is_dir():
            return self._saved(file)
        if self._on_hub:
            return self._of_hub()
        return {None: Rows(file, self.columns)}

    @property
    def _on_hub(self) -> bool:
        """Whether `data` is a name on the hub: no folder of this machine, and no file."""
        file, table = self._files.get("data"), self._table
        if file is None or file.is_dir():
            return False
        return bool(table.config or table.revision or table.splits or not (file.suffix or file.exists()))

    def _saved(self, folder: Path) -> Mapping[Split | None, Rows]:
        import datasets

        try:
            with _quiet(datasets):
                found = datasets.load_from_disk(str(folder))
        except Exception as error:
            files = sorted(each.name for each in folder.iterdir() if each.suffix.lower() in SUFFIXES)
            hint = f"; give one of its files, as {folder / files[0]}" if files else ""
            raise TaskError(
                f"{folder}: it is a folder that datasets' save_to_disk did not write, or a damaged one ({first_line(error)}){hint}"
            ) from None
        if isinstance(found, datasets.DatasetDict):
            return self._chosen(found, str(folder))
        return {None: SavedRows(folder, found, self.columns)}

    def _of_hub(self) -> Mapping[Split | None, Rows]:
        import datasets

        table = self._table
        assert table.data is not None
        where = table.data + (f" ({table.config})" if table.config else "")
        if not _HUB_NAME.fullmatch(table.data):
            raise TaskError(f"task.data: {table.data} is no file, no folder and no name of a data set on the hub")
        try:
            found = self._in_cache() or datasets.load_dataset(table.data, table.config, revision=table.revision)
        except Exception as error:  # whatever the hub, the network or a damaged file does
            raise TaskError(f"task.data: {where}: {_why_not(error, table.data)}") from None
        return self._chosen(found, where)

    def _in_cache(self) -> Mapping[str, Any] | None:
        """The data set as the hub's cache has it, so that no network is needed; None where something is missing there."""
        import datasets

        if (folder := self._snapshot()) is None:
            return None
        try:
            with _quiet(datasets):
                return cast("Mapping[str, Any]", datasets.load_dataset(str(folder), self._table.config))
        except Exception:  # files of this configuration are not there: then the hub is asked, and says what is wrong
            return None

    def _snapshot(self) -> Path | None:
        """The folder of the hub's cache that holds the data set, which is called by its commit; None where there is none."""
        import huggingface_hub

        name, revision = str(self._table.data), self._table.revision
        try:
            return Path(
                huggingface_hub.snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=True)
            )
        except (
            OSError,
            ValueError,
        ):  # huggingface_hub's own are kinds of these: nothing is there, or it is no such name
            return None

    def _chosen(self, found: Mapping[str, Any], where: str) -> Mapping[Split | None, Rows]:
        """Which of the splits that the data has are used for which."""
        chosen = self._table.splits
        given = {split: chosen.get(split, split) for split in ("train", "validation", "test")}
        if "validation" not in chosen and "validation" in chosen.values():
            del given["validation"]  # it is what models are scored on, or trained with
        if len(found) == 1 and not self._table.splits:
            (only,) = found.values()
            return {None: SavedRows(Path(where), only, self.columns)}
        for split, name in given.items():
            if name not in found and (split != "validation" or split in self._table.splits):
                raise TaskError(
                    f"task.splits: {where} has no split `{name}`{nearest(name, found)}; say which it "
                    f'is, as in splits = {{ {split} = "{next(iter(found))}" }}'
                )
        return {
            cast("Split", split): SavedRows(Path(f"{where} [{name}]"), found[name], self.columns)
            for split, name in given.items()
            if name in found
        }


class SavedRows(Rows):
    """Rows of a split that the library datasets holds. Classes are their names, not their numbers."""

    def __init__(self, where: Path, data: Any, columns: Sequence[str]) -> None:
        super().__init__(where, columns)
        self.data = data

    @property
    def counted_by(self) -> str:
        """What a row's number counts."""
        return "row"

    def fingerprint(self) -> str:
        """A SHA-256 over the contents of its files."""
        files = sorted(cache.sha256(Path(each["filename"])) for each in self.data.cache_files)
        return hashlib.sha256("\n".join([self.data._fingerprint, *files]).encode()).hexdigest()

    def __iter__(self) -> Iterator[Row]:
        names = list(self.data.features)
        where = self._where(1, names)
        named = {place: _with_names(self.data.features[names[place]]) for place, _ in where}
        if not len(self.data):
            raise self.error("it has no rows")
        number = 0
        for batch in self.data.select_columns(sorted({names[place] for place, _ in where})).iter(1000):
            for at in range(len(next(iter(batch.values())))):
                number += 1
                yield self._row(number, {place: name(batch[names[place]][at]) for place, name in named.items()}, where)


def _with_names(feature: Any) -> Any:
    """What makes names of the classes' numbers in a value of `feature`."""
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return lambda value: feature.int2str(value) if isinstance(value, int) and value >= 0 else None
    inner = getattr(feature, "feature", None)
    if inner is not None and not isinstance(inner, dict):
        of_each = _with_names(inner)
        return lambda value: [of_each(each) for each in value] if isinstance(value, list) else value
    return lambda value: value


def _why_not(error: Exception, name: str) -> str:
    said, kind = first_line(error), type(error).__name__
    if "script" in said and "no longer supported" in said:
        return (
            f"it is a repository that loads by a script, which datasets does not run any more; use a copy with data files, as "
            f"lhoestq/{name.rpartition('/')[2]}, or save the data as .parquet and name that"
        )
    if "gated" in said.lower() or "401" in said:
        return f"it is gated ({said}); ask for access on its page, and log in with `hf auth login`"
    if kind in ("ConnectionError", "OfflineModeIsEnabled", "ConnectTimeout", "ConnectError", "LocalEntryNotFoundError"):
        return (
            f"the hub cannot be reached and nothing is in the cache ({said}); fetch it with `hf download --repo-type dataset "
            f"{name}` where there is a network, or name a file or folder of this machine in `data`"
        )
    return (
        f"it cannot be loaded ({kind}: {said}); look for its name on the hub, or name a file or folder of this machine"
    )


@contextlib.contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """No progress bars for what is on this machine."""
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        if not bars:
            datasets.enable_progress_bars()
