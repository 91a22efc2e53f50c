"""From ``--base v1.2 --head .`` to environments whose Python imports exactly these revisions. docs/gate.md says how.

An environment lies on top of the running one: it holds the package under test, as that revision has it, and what the
revision needs and the running environment does not have. All else it shares.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path, PurePath
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from bench.machine.cache import lock
from bench.recipe.errors import nearest


class BuildError(ValueError):
    """A side cannot be made. The message says which revision, what failed and the mend."""


@dataclass(frozen=True)
class Environment:
    """One side of a gate, ready to be measured.

    ``label`` is what was asked for. ``commit`` is the full hash, with ``+changes`` where the working tree has
    uncommitted changes, or files that git neither tracks nor ignores. ``checkout`` is the folder of the revision's files,
    ``suite`` the file of the suite in it. ``python`` is the interpreter. ``packages`` are the modules of the package
    under test, by name, and the folder or file that each must be imported from; empty where no package is built.
    """

    label: str
    commit: str
    checkout: Path
    suite: Path
    python: Path
    packages: dict[str, str]


OTHERWISE = "or name two environments that are there, with --base-python and --head-python"

_PATH = '''\
"""Puts this environment before the one that it lies on, and a revision's folders in the place of its repository's."""

import os
import site
import sys

for folder in {below!r}:
    site.addsitedir(folder)


def of_revision(folder):
    inside = os.path.relpath(os.path.realpath(folder), {repository!r})
    copy = os.path.normpath(os.path.join({checkout!r}, inside))
    return copy if not inside.startswith(os.pardir) and os.path.isdir(copy) else folder


# PYTHONPATH comes first as a rule, and may hold another revision of what is installed here.
own = os.path.dirname(__file__)
sys.path[:] = [own, *(of_revision(folder) for folder in sys.path if folder != own)]
'''

_FIND = """
import importlib.util, json, sys
specs = {name: importlib.util.find_spec(name) for name in json.load(sys.stdin)}
print(json.dumps({name: spec and spec.origin for name, spec in specs.items()}))
"""


def build(suite: Path, revision: str, package: str | None, cache: Path, say: Callable[[str], None]) -> Environment:
    """The environment of `revision` of the repository that `suite` lies in; of an earlier build where there is one.

    Args:
        suite: a suite's file. Each revision uses its own, at the same path.
        revision: a name of a commit, or "." for the working tree as it stands.
        package: folder of the package under test, as a path from the repository's root; None for the root, where it
            is one.
        cache: the folder to build in.
        say: is told, in a line, what takes time.

    Raises:
        BuildError: the environment cannot be made.
    """
    suite, cache = suite.resolve(), cache.resolve()
    name = "the working tree" if revision == "." else revision
    try:
        repository = _repository(suite)
        commit = _commit(repository, revision)
        changed = _changed(repository) if revision == "." else []
        checkout = _checkout(repository, commit, changed, name, cache)
        inside = suite.relative_to(repository)
        if not (checkout / inside).is_file():
            raise BuildError(
                f"{name} has no {inside}; each side uses its own file of the suite, at the same path: name a revision "
                f"that has it{' (git ignores it here)' if revision == '.' else ''}, {OTHERWISE}"
            )
        if (checkout / ".gitmodules").is_file():
            say(f"{name} has submodules; their folders are left empty")
        said = f"{name} ({commit[:7]}{' with changes' if changed else ''})"
        python, packages = _environment(repository, checkout, _source(checkout, package, name), said, cache, say)
    except OSError as error:
        raise BuildError(
            f"{name}: cannot be built in {cache}: {error}; $METHODBENCH_CACHE names another folder"
        ) from error
    return Environment(revision, commit + "+changes" * bool(changed), checkout, checkout / inside, python, packages)


def _git(folder: Path, *words: str) -> str:
    """What git answers.

    Raises:
        subprocess.CalledProcessError: it fails; ``stderr`` says why.
    """
    # In a hook of git, these say which repository it runs for.
    own = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX")
    command = ["git", "--no-optional-locks", "-c", f"core.hooksPath={os.devnull}", "-C", str(folder), *words]
    variables = {key: value for key, value in os.environ.items() if key not in own}
    try:
        return subprocess.run(
            command, env=variables, check=True, capture_output=True, encoding="utf-8", errors="surrogateescape"
        ).stdout
    except FileNotFoundError:
        raise BuildError(
            f"git is not installed, and makes the checkouts of revisions; install it, {OTHERWISE}"
        ) from None


def _said(error: subprocess.CalledProcessError) -> str:
    return " ".join(error.stderr.split()) or f"status {error.returncode}"


def _repository(suite: Path) -> Path:
    try:
        return Path(_git(suite.parent, "rev-parse", "--show-toplevel").rstrip("\n")).resolve()
    except subprocess.CalledProcessError as error:
        raise BuildError(
            f"{suite}: git finds no working tree around it ({_said(error)}), and revisions are those of the repository "
            f"that the suite lies in; put the suite in one, {OTHERWISE}"
        ) from None


def _commit(repository: Path, revision: str) -> str:
    """The full hash of `revision`; of "." the commit that the working tree stands on."""
    name = "HEAD" if revision == "." else revision
    try:
        return _git(repository, "rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}").strip()
    except subprocess.CalledProcessError:
        if hint := _shallow(repository):
            raise BuildError(f"{repository} has no revision `{name}`; {hint}") from None
        newest = ("--sort=-creatordate", "--count=20", "--format=%(refname:short)")
        names = _git(repository, "for-each-ref", *newest, "refs/heads", "refs/tags", "refs/remotes").split()
        raise BuildError(
            f"{repository} has no revision `{name}`{nearest(name, names) or '; commit something'}"
        ) from None


def _shallow(repository: Path) -> str:
    """The mend where a clone lacks history; empty where it has all of it."""
    if _git(repository, "rev-parse", "--is-shallow-repository").strip() != "true":
        return ""
    return "it is a shallow clone: give actions/checkout `fetch-depth: 0`, or run `git fetch --unshallow --tags`"


def _changed(repository: Path) -> list[str]:
    """The files that differ from HEAD, are gone, or are neither tracked nor ignored."""
    differ = ("diff", "HEAD", "--name-only", "--no-renames", "--no-relative", "--ignore-submodules", "-z")
    answers = _git(repository, *differ) + _git(repository, "ls-files", "--others", "--exclude-standard", "-z")
    # The name of another repository inside this one, which git does not look into, ends with a slash.
    return sorted({name for name in answers.split("\0") if name and not name.endswith("/")})


def _checkout(repository: Path, commit: str, changed: Sequence[str], name: str, cache: Path) -> Path:
    """A folder with the files of `commit`, and those `changed` as they are in the working tree of `repository`."""

    def make(folder: Path) -> None:
        try:
            # A clone, so that tools that ask git for a version find it; git makes no note of it in the repository.
            _git(cache, "clone", "--quiet", "--shared", "--no-checkout", str(repository), str(folder))
            _git(folder, "checkout", "--quiet", "--detach", commit)
        except subprocess.CalledProcessError as error:
            hint = _shallow(repository) or f"mend the repository ({repository}), {OTHERWISE}"
            raise BuildError(f"{name}: git could not check it out ({_said(error)}); {hint}") from None
        # All goes before anything comes: a file may have become a folder, or a folder a file.
        for file in changed:
            if (old := folder / file).is_dir() and not old.is_symlink():
                shutil.rmtree(old)
            old.unlink(missing_ok=True)
        for file in changed:
            if (new := repository / file).is_file() or new.is_symlink():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(new, folder / file, follow_symlinks=False)

    contents = [(file, _content(repository / file)) for file in changed]
    return _once(cache / "checkouts" / _key(str(repository), commit, contents), make)


def _content(file: Path) -> Any:
    """What tells a file from another: its mode and its content, or where it links to; None where it is gone."""
    if file.is_symlink():
        return str(file.readlink())
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        return file.stat().st_mode, hashlib.file_digest(stream, "sha256").hexdigest()


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Have `make` fill `folder`, unless it was filled before; it is there whole or not at all."""
    whole = folder.with_name(f"{folder.name}.whole")  # beside it, and written last: an environment cannot be renamed
    with lock(f"{folder}.lock"):
        if not (whole.exists() and folder.is_dir()):
            whole.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            try:
                make(folder)
                whole.touch()
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
    return folder


def _source(checkout: Path, package: str | None, name: str) -> Path | None:
    """The folder of the package to build; None where the root of the repository is none and no other is named."""
    folder = (checkout / (package or ".")).resolve()
    if not folder.is_relative_to(checkout):
        raise BuildError(f"package: `{package}` is outside of the repository; give a path from its root")
    if not folder.is_dir():
        raise BuildError(f"{name} has no folder {package}; name a revision that has it, or mend `package` in [gate]")
    project = _project(folder, name)
    if (folder / "setup.py").is_file() or project.keys() & {"project", "build-system"}:
        return folder
    if package is not None:
        raise BuildError(
            f"{name}: {package} is no package: it has neither a setup.py nor a pyproject.toml with [project] or "
            "[build-system]; mend `package` in [gate]"
        )
    return None


def _project(folder: Path, name: str) -> Mapping[str, Any]:
    try:
        return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise BuildError(f"{name}: its pyproject.toml cannot be read: {error}") from None


def _environment(
    repository: Path, checkout: Path, source: Path | None, name: str, cache: Path, say: Callable[[str], None]
) -> tuple[Path, dict[str, str]]:
    """The interpreter that imports what `source` installs, and these modules with their places."""
    below = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    installed = sorted(file.name for folder in below for file in Path(folder).glob("*.*-info"))
    key = _key(str(checkout), str(source), sys.version, sys.base_prefix, below, installed)
    log = cache / "environments" / f"{key}.log"

    def make(folder: Path) -> None:
        say(f"building {name}")
        pip = importlib.util.find_spec("pip") is not None
        try:
            venv.EnvBuilder(symlinks=True, with_pip=not pip).create(folder)
        except subprocess.CalledProcessError:
            raise BuildError(
                "pip is missing, and builds revisions; install it: `pip install pip`, or `uv pip install pip`"
            ) from None
        own = _site_packages(folder)
        text = _PATH.format(below=below, repository=str(repository), checkout=str(checkout))
        (own / "_methodbench_path.py").write_text(text, encoding="utf-8")
        (own / "_methodbench_path.pth").write_text("import _methodbench_path\n", encoding="utf-8")
        packages = _install(folder, checkout, source, name, log) if source else {}
        (folder / "packages.json").write_text(json.dumps(packages), encoding="utf-8")

    folder = _once(cache / "environments" / key, make)
    return _python(folder), json.loads((folder / "packages.json").read_text(encoding="utf-8"))


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _site_packages(folder: Path) -> Path:
    return Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder)}))


def _install(folder: Path, checkout: Path, source: Path, name: str, log: Path) -> dict[str, str]:
    """Install `source` into the environment in `folder`, and look where its modules would be imported from."""
    report = folder / "report.json"
    command = [str(_python(folder)), "-P", "-m", "pip", "--no-input", "--disable-pip-version-check", "install"]
    if _buildable(_project(source, name)):
        command.append("--no-build-isolation")
    if (checkout / "constraints.txt").is_file():
        command += ["--constraint", str(checkout / "constraints.txt")]
    with log.open("w") as stream:
        done = subprocess.run(
            [*command, "--report", str(report), str(source)], cwd=folder, stdout=stream, stderr=subprocess.STDOUT
        )
    if done.returncode:
        last = "\n  ".join(log.read_text(errors="replace").splitlines()[-12:])
        raise BuildError(
            f"{name}: pip could not install it:\n  {last}\nAll that pip said is in {log}. Mend that revision, {OTHERWISE}"
        )
    asked = next(each for each in json.loads(report.read_text())["install"] if each["requested"])["metadata"]["name"]
    own = _site_packages(folder)
    files = [
        file for each in importlib.metadata.distributions(name=asked, path=[str(own)]) for file in each.files or []
    ]
    modules = {module: str(own / place) for module, place in _modules(files).items()}
    if not modules:
        raise BuildError(f"{name}: {asked} installs no module, so that nothing of it can be measured; mend its build")
    found = subprocess.run(
        [str(_python(folder)), "-P", "-c", _FIND],
        cwd=checkout,
        input=json.dumps(modules),
        capture_output=True,
        text=True,
    )
    origins = json.loads(found.stdout) if found.returncode == 0 else {}
    for module, place in modules.items():
        origin = origins.get(module) or found.stderr.strip()[-300:] or "nowhere"
        if not Path(origin).resolve().is_relative_to(Path(place).resolve()):
            raise BuildError(
                f"{name}: its module {module} would be imported from {origin}, not from {place}; uninstall {asked} from "
                f"the running environment ({sys.prefix}): an editable installation may force itself on all that lies on it"
            )
    return modules


def _buildable(project: Mapping[str, Any]) -> bool:
    """Whether the running environment has all that building asks for, so that nothing need be downloaded for it."""
    # By default it is setuptools, which makes wheels by itself since this version.
    for text in project.get("build-system", {}).get("requires", ["setuptools>=70.1"]):
        try:
            need = Requirement(text)
            if need.marker and not need.marker.evaluate():
                continue
            if not need.specifier.contains(importlib.metadata.version(need.name), prereleases=True):
                return False
        except (InvalidRequirement, importlib.metadata.PackageNotFoundError):
            return False
    return True


def _modules(files: Iterable[PurePath]) -> dict[str, PurePath]:
    """The importable names of a distribution's files: outermost packages, and modules that are in none."""
    sources = [file for file in files if file.name.endswith((".py", *EXTENSION_SUFFIXES))]
    packages = {file.parent for file in sources if file.name.split(".")[0] == "__init__"}
    found = {}
    for file in sources:
        place = next((folder for folder in reversed(file.parents) if folder in packages), file)
        parts = [*place.parts[:-1], place.name.split(".")[0]]
        if all(part.isidentifier() for part in parts):
            found[".".join(parts)] = place
    return found
