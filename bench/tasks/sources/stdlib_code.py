"""Source files of the running Python's own standard library, as language modelling data.

The data is on every machine already, is real text, and a model of a million parameters learns it in minutes.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from bench.machine import cache
from bench.tasks.base import TaskError
from bench.tasks.kinds.language_modelling import LanguageModelling
from bench.tasks.passages import HELD_OUT, PASSAGE, DividedPassages
from bench.tasks.sources.kept import Kept
from bench.tasks.sources.library import sources, without_sources

MODULES = """
    __future__ _collections_abc _compat_pickle _markupbase _osx_support _py_abc _pydecimal _pyio _sitebuiltins
    _strptime _threading_local _weakrefset abc argparse ast asyncio base64 bdb bisect bz2 cProfile calendar cmd code
    codecs codeop collections colorsys compileall concurrent configparser contextlib contextvars copy copyreg csv
    ctypes curses dataclasses datetime dbm decimal difflib dis doctest email enum filecmp fileinput fnmatch fractions
    ftplib functools genericpath getopt getpass gettext glob graphlib gzip hashlib heapq hmac html http imaplib
    importlib inspect io ipaddress json keyword linecache locale logging lzma mailbox mimetypes modulefinder
    multiprocessing netrc ntpath numbers opcode operator optparse os pdb pathlib pickle pickletools pkgutil platform
    plistlib poplib posixpath pprint profile pstats pty py_compile pyclbr pydoc queue quopri random re reprlib
    rlcompleter runpy sched secrets selectors shelve shlex shutil signal site smtplib socket socketserver sqlite3 ssl
    stat statistics string stringprep struct subprocess symtable sysconfig tabnanny tarfile tempfile textwrap
    threading timeit token tokenize tomllib trace traceback tracemalloc tty types typing unittest urllib uuid venv
    warnings wave weakref webbrowser wsgiref xml xmlrpc zipapp zipfile zipimport zoneinfo
""".split()  # noqa: SIM905
"""Modules and packages of every CPython from 3.11 to 3.14, test folders left out.

Not among them: what Debian and others split off (idlelib, tkinter, turtle, ensurepip), and what is no code to speak of
(pydoc_data, and encodings, whose hundred tables are so alike that a test item would have its twin in training).
"""

_FORMAT = 2  # of what becomes of the sources; raised when other texts are taken or they are divided otherwise


def source_files(root: Path) -> dict[str, os.stat_result]:
    """Every source file of :data:`MODULES` in the standard library at `root`, with what the file system says of it, sorted."""
    found = {}
    for name in MODULES:
        single = root / f"{name}.py"
        if single.is_file():
            found[str(single)] = single.stat()
        found |= {entry.path: entry.stat() for entry in sources(str(root / name))}
    return dict(sorted(found.items()))


def missing_modules(root: Path) -> list[str]:
    """The names of :data:`MODULES` that the standard library at `root` has no sources of."""
    files = {entry.name for entry in os.scandir(root)} if root.is_dir() else set()
    return [name for name in MODULES if name not in files and f"{name}.py" not in files]


class StdlibCode(Kept, LanguageModelling):
    """Some 7 MB of Python: the sources of the standard library, outside test folders.

    Whole files are in one split, so nothing of a test file was trained on; the test split is some 200 kB of passages
    from all test files, since every stage scores it. The library differs between Python versions, and results do not
    compare across those; the fingerprint says so.
    """

    name = "stdlib-code"
    summary: ClassVar[str] = "source files of Python's standard library; predict each token from those before it"

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(sysconfig.get_path("stdlib"))

    def problems(self) -> list[str]:
        """Name modules whose sources are missing."""
        return without_sources(self.name, self.root, missing_modules(self.root))

    def divided(self) -> DividedPassages:
        """Every file in its split.

        Raises:
            TaskError: a module is missing.
        """
        data = super().divided()
        self.keep(data)
        return data

    def read(self) -> Iterator[str]:
        """Every source file.

        Raises:
            TaskError: a module is missing.
        """
        for problem in self.problems():
            raise TaskError(problem)
        for file in self._files:
            with tokenize.open(file) as stream:
                yield stream.read()

    @functools.cached_property
    def _files(self) -> dict[str, os.stat_result]:
        return source_files(self.root)

    @functools.cached_property
    def kept(self) -> Path:
        """The cache file, named by the Python version and by name, size and time of every source file."""
        stats = [
            (os.path.relpath(file, self.root), stat.st_size, stat.st_mtime_ns) for file, stat in self._files.items()
        ]
        identity = repr((_FORMAT, PASSAGE, HELD_OUT, sys.version, stats)).encode("utf-8", "surrogateescape")
        return cache.folder() / f"stdlib-code/{hashlib.blake2b(identity, digest_size=16).hexdigest()}"
