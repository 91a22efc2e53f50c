"""Real repositories, with a package that builds itself, and what the Python of each environment imports."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import site
import subprocess
import venv
import zipfile
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path, PurePath

import pytest

from bench.gate import revision
from bench.gate.revision import BuildError, Environment

ROOT = Path(__file__).parents[3]

PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""

BACKEND = """
import zipfile
from pathlib import Path

def build_wheel(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(Path(folder, "tiny-1.0-py3-none-any.whl"), "w") as wheel:
        for file in Path("src").rglob("*.py"):
            wheel.write(file, file.relative_to("src"))
        needs = Path("needs").read_text() if Path("needs").exists() else ""
        wheel.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\n" + needs)
        wheel.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("tiny-1.0.dist-info/RECORD", "")
    return "tiny-1.0-py3-none-any.whl"
"""


class Repository:
    """A repository whose commit `v1` has a package `tiny` of value 1, and whose HEAD has one of value 2."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "--quiet")
        self.write("pyproject.toml", PROJECT)
        self.write("backend.py", BACKEND)
        self.write("suites/gate.toml", "")
        self.write("suites/.gitignore", "ignored*\n")
        self.write("src/tiny/__init__.py", "VALUE = 1\n")
        self.commit("v1")
        self.write("src/tiny/__init__.py", "VALUE = 2\n")
        self.commit("v2")

    @property
    def suite(self) -> Path:
        return self.folder / "suites" / "gate.toml"

    def git(self, *words: str) -> str:
        who = (
            "-c",
            "user.name=A",
            "-c",
            "user.email=a@example.org",
            "-c",
            "commit.gpgsign=false",
            "-c",
            "tag.gpgsign=false",
        )
        return subprocess.run(["git", *who, *words], cwd=self.folder, check=True, capture_output=True, text=True).stdout

    def write(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)

    def commit(self, tag: str) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", tag)
        self.git("tag", tag)
        return self.git("rev-parse", "HEAD").strip()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


@pytest.fixture
def scripts(repository: Repository) -> Repository:
    """A repository without a package: its sides differ by their files alone, and pip has nothing to do."""
    for tag in ("v1", "v2"):
        repository.git("checkout", "--quiet", tag)
        repository.git("rm", "--quiet", "pyproject.toml")
        repository.commit(f"scripts-{tag}")
    return repository


Build = Callable[..., Environment]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def build(repository: Repository, said: list[str], tmp_path: Path) -> Build:
    def built(name: str, package: str | None = None, suite: Path | None = None) -> Environment:
        return revision.build(suite or repository.suite, name, package, tmp_path / "cache", said.append)

    return built


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of packages of the running environment."""
    folder = tmp_path / "running"
    folder.mkdir()
    below = [str(folder), *site.getsitepackages()]
    monkeypatch.setattr(site, "getsitepackages", lambda: below)
    return folder


def ask(environment: Environment, expression: str, module: str = "tiny") -> str:
    command = [environment.python, "-P", "-c", f"import {module}; print({expression})"]
    return subprocess.run(command, cwd=environment.checkout, check=True, capture_output=True, text=True).stdout.strip()


def tree(folder: Path) -> dict[str, object]:
    """Each file below `folder` but git's own: what it links to, or its content and whether it can be run."""
    return {
        str(file.relative_to(folder)): str(file.readlink())
        if file.is_symlink()
        else (file.read_text(), os.access(file, os.X_OK))
        for file in folder.rglob("*")
        if (file.is_symlink() or file.is_file()) and ".git" not in file.relative_to(folder).parts
    }


def test_each_side_imports_its_own_revision(repository, build, said):
    base, head = build("v1"), build(".")
    assert (ask(base, "tiny.VALUE"), ask(head, "tiny.VALUE")) == ("1", "2")
    assert (base.label, base.commit) == ("v1", repository.git("rev-parse", "v1").strip())
    assert (head.label, head.commit) == (".", repository.git("rev-parse", "HEAD").strip())
    assert base.suite == base.checkout / "suites" / "gate.toml"
    assert base.suite.is_file()
    assert ask(base, "tiny.__file__") == base.packages["tiny"] + "/__init__.py"
    assert said == [f"building v1 ({base.commit[:7]})", f"building the working tree ({head.commit[:7]})"]
    # The repository has neither what the builds wrote nor a note of the checkouts.
    assert repository.git("status", "--porcelain", "--ignored") == ""
    assert len(repository.git("worktree", "list").splitlines()) == 1


def test_a_revision_is_built_once(repository, build, said, monkeypatch):
    first = build("v2")
    monkeypatch.setattr(revision, "_install", lambda *_: pytest.fail("it was built again"))
    assert build("v2") == first
    assert build(first.commit[:12]).python == first.python
    assert build(".").python == first.python  # nothing differs from HEAD
    assert len(said) == 1


def test_the_running_environment_lies_below(repository, build, running, tmp_path, monkeypatch):
    """An editable installation and PYTHONPATH have another `tiny`; what only they have can be imported too."""
    for name in ("editable", "path"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tiny.py").write_text("VALUE = 3\n")
        (tmp_path / name / f"{name}_only.py").touch()
    (running / "editable.pth").write_text(f"{tmp_path / 'editable'}\n")
    (running / "tiny-1.0.dist-info").mkdir()
    (running / "tiny-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "path"), str(ROOT)]))
    base = build("v1")
    assert ask(base, "tiny.VALUE", "tiny, editable_only, path_only, pytest") == "1"
    assert ask(base, "bench.__file__", "bench") == str(ROOT / "bench" / "__init__.py")
    version = "__import__('importlib.metadata').metadata.distribution('tiny').locate_file('')"
    assert str(Path(base.packages["tiny"]).parent) == ask(base, version)


def test_methodbench_under_test_is_the_one_that_imports(repository, build, monkeypatch):
    """Its `bench` wins over the running one."""
    repository.write("backend.py", BACKEND.replace("Name: tiny", "Name: methodbench").replace("tiny-", "methodbench-"))
    repository.git("mv", "src/tiny", "src/bench")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    head = build(".")
    assert ask(head, "bench.VALUE", "bench") == "2"
    assert list(head.packages) == ["bench"]


def test_an_environment_that_imports_another_copy_is_refused(repository, build, running):
    (running / "force.pth").write_text("import force\n")
    (running / "force.py").write_text(
        "import importlib.util, sys\n"
        "class Finder:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name == 'tiny':\n"
        "            return importlib.util.spec_from_file_location(name, __file__)\n"
        "sys.meta_path.insert(0, Finder)\n"
    )
    with pytest.raises(BuildError, match=rf"^v1 \(.*: its module tiny would be imported from {running}/force.py, not"):
        build("v1")


def test_what_the_running_environment_lacks_is_installed(repository, build, running, tmp_path, monkeypatch):
    """The revision's constraints say which version."""
    (running / "need-1.0.dist-info").mkdir()
    (running / "need-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: need\nVersion: 1.0\n")
    for version in ("1.0", "2.0", "3.0"):
        with zipfile.ZipFile(tmp_path / f"need-{version}-py3-none-any.whl", "w") as wheel:
            folder = f"need-{version}.dist-info"
            wheel.writestr("need.py", f"VERSION = '{version}'\n")
            wheel.writestr(f"{folder}/METADATA", f"Metadata-Version: 2.1\nName: need\nVersion: {version}\n")
            wheel.writestr(f"{folder}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{folder}/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    repository.write("needs", "Requires-Dist: need\n")
    repository.write("constraints.txt", "need==2.0\n")
    head = build(".")
    assert ask(head, "need.VERSION", "need") == "2.0"
    assert list(head.packages) == ["tiny"]


def test_a_build_that_fails(repository, build, tmp_path):
    repository.write("backend.py", "def build_wheel(*_):\n    raise RuntimeError('no compiler')\n")
    with pytest.raises(
        BuildError, match=r"(?s)^the working tree \(\w{7} with changes\): pip .*Mend that revision"
    ) as error:
        build(".")
    log = Path(re.findall(r"is in (\S+)\. Mend", str(error.value))[0])
    assert "no compiler" in log.read_text()
    assert not list((tmp_path / "cache" / "environments").glob("*/"))


def test_a_build_that_installs_no_module(repository, build):
    repository.git("rm", "-r", "--quiet", "src")
    with pytest.raises(BuildError, match="tiny installs no module"):
        build(".")


def test_the_working_tree_is_taken_as_it_stands(scripts, build):
    scripts.write("both", "")
    scripts.write("folder/file", "")
    scripts.write("gone", "")
    scripts.commit("files")
    assert tree(build(".").checkout) == tree(scripts.folder)
    before = tree(build(".").checkout)

    (scripts.folder / "gone").unlink()
    (scripts.folder / "both").unlink()
    scripts.write("both/now a folder", "x")
    shutil.rmtree(scripts.folder / "folder")
    scripts.write("folder", "now a file")
    scripts.write("backend.py", "changed")
    (scripts.folder / "backend.py").chmod(0o755)
    scripts.write("staged", "x")
    scripts.git("add", "staged")
    (scripts.folder / "link").symlink_to("nowhere")
    (scripts.folder / os.fsdecode(b"caf\xe9")).touch()
    now = tree(scripts.folder)
    scripts.write("suites/ignored", "x")
    scripts.write("nested/file", "x")
    subprocess.run(["git", "init", "--quiet", "nested"], cwd=scripts.folder, check=True)

    head = build(".")
    assert tree(head.checkout) == now
    assert head.commit == scripts.git("rev-parse", "HEAD").strip() + "+changes"
    assert tree(build("files").checkout) == before
    scripts.write("backend.py", "changed again")
    assert build(".").checkout != head.checkout


@pytest.mark.parametrize("how", ["PYTHONPATH", "editable"])
def test_a_folder_of_the_repository_on_the_path_is_the_revisions(scripts, build, running, monkeypatch, how):
    if how == "editable":
        (running / "tiny.pth").write_text(f"{scripts.folder / 'src'}\n")
    else:
        monkeypatch.setenv("PYTHONPATH", str(scripts.folder / "src"))
    base, head = build("scripts-v1"), build(".")
    assert (ask(base, "tiny.VALUE"), ask(head, "tiny.VALUE")) == ("1", "2")
    assert ask(base, "tiny.__file__") == str(base.checkout / "src" / "tiny" / "__init__.py")
    assert base.packages == {}


def test_tools_that_ask_git_for_a_version_find_it(scripts, build):
    describe = ["git", "describe", "--tags"]
    described = subprocess.run(describe, cwd=build("scripts-v1").checkout, capture_output=True)
    assert described.stdout == b"scripts-v1\n"


def test_a_linked_working_tree_and_a_hook_of_git(scripts, build, tmp_path, monkeypatch):
    scripts.git("worktree", "add", "--quiet", str(tmp_path / "linked"), "scripts-v1")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "nowhere"))
    head = build(".", suite=tmp_path / "linked" / "suites" / "gate.toml")
    assert (head.checkout / "src" / "tiny" / "__init__.py").read_text() == "VALUE = 1\n"


def test_a_shallow_clone(scripts, build, tmp_path):
    subprocess.run(["git", "clone", "--quiet", "--depth=1", scripts.folder.as_uri(), tmp_path / "shallow"], check=True)
    suite = tmp_path / "shallow" / "suites" / "gate.toml"
    with pytest.raises(BuildError, match=r"no revision `v1`; it is a shallow clone: .*`fetch-depth: 0`.*--unshallow"):
        build("v1", suite=suite)
    assert build(".", suite=suite).suite.is_file()


def test_submodules_are_said(scripts, build, said):
    scripts.write(".gitmodules", "")
    build(".")
    assert said[0] == "the working tree has submodules; their folders are left empty"


@pytest.mark.parametrize(
    ("name", "package", "file", "message"),
    [
        ("v11", None, "gate.toml", r"no revision `v11`; did you mean `v1`\?"),
        ("--all", None, "gate.toml", r"no revision `--all`; known: .*v1"),
        ("v1", None, "other.toml", r"^v1 has no suites/other.toml; each side uses its own"),
        (".", None, "ignored.toml", r"^the working tree has no suites/ignored.toml; .*git ignores it"),
        ("v1", "lib", "gate.toml", r"^v1 has no folder lib; .* `package` in \[gate\]"),
        ("v1", "src", "gate.toml", r"^v1: src is no package: .*setup.py"),
        ("v1", "../x", "gate.toml", r"^package: `../x` is outside of the repository"),
        (".", None, "gate.toml", r"^the working tree: its pyproject.toml cannot be read: "),
    ],
)
def test_what_cannot_be_built(repository, build, name, package, file, message):
    repository.write("suites/other.toml", "")
    repository.write("suites/ignored.toml", "")
    repository.write("pyproject.toml", "[")
    with pytest.raises(BuildError, match=message):
        build(name, package, repository.folder / "suites" / file)


def test_a_pyproject_of_tools_alone_is_no_package(repository, build):
    repository.write("pyproject.toml", "[tool.ruff]\n")
    assert build(".").packages == {}


def test_no_repository(build, tmp_path):
    (tmp_path / "gate.toml").touch()
    with pytest.raises(BuildError, match=r"gate.toml: git finds no working tree around it .*--base-python"):
        build("v1", suite=tmp_path / "gate.toml")


def test_a_repository_without_a_commit(build, tmp_path):
    subprocess.run(["git", "init", "--quiet", tmp_path / "new"], check=True)
    with pytest.raises(BuildError, match="no revision `HEAD`; commit something"):
        build(".", suite=tmp_path / "new" / "gate.toml")


def test_no_git(build, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="git is not installed"):
        build("v1")


def test_no_pip(repository, build, monkeypatch):
    def fails(*_: object) -> None:
        raise subprocess.CalledProcessError(1, "ensurepip")

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(venv.EnvBuilder, "create", fails)
    with pytest.raises(BuildError, match="`pip install pip`"):
        build("v1")


@pytest.mark.slow
def test_pythons_own_pip_does_where_there_is_no_other(repository, build, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert ask(build("v1"), "tiny.VALUE") == "1"


def test_a_cache_that_cannot_be_written(build, tmp_path):
    (tmp_path / "cache").touch()
    with pytest.raises(BuildError, match=r"^v1: cannot be built in .*METHODBENCH_CACHE"):
        build("v1")


def test_what_is_half_done_is_done_again(tmp_path):
    def interrupted(folder: Path) -> None:
        folder.mkdir()
        raise KeyboardInterrupt

    folder = tmp_path / "environments" / "key"
    with pytest.raises(KeyboardInterrupt):
        revision._once(folder, interrupted)
    assert not folder.exists()
    folder.mkdir()  # of a process that was killed
    made = []

    def make(folder: Path) -> None:
        folder.mkdir()  # an error, were it still there
        made.append(folder)

    assert revision._once(folder, make) == revision._once(folder, make) == folder
    assert made == [folder]
    shutil.rmtree(folder)  # someone makes room
    with pytest.raises(KeyboardInterrupt):
        revision._once(folder, interrupted)
    folder.mkdir()
    revision._once(folder, make)
    assert made == [folder, folder]


@pytest.mark.parametrize(
    ("requires", "there"),
    [
        ([], True),
        (["pytest"], True),
        (["pytest>=9", "no-such-thing; python_version < '3'"], True),
        (["pytest>=999"], False),
        (["no-such-thing"], False),
        (["not a requirement"], False),
    ],
)
def test_a_build_downloads_nothing_that_is_there(requires, there):
    assert revision._buildable({"build-system": {"requires": requires}}) is there


def test_modules_of_a_distribution():
    suffix = EXTENSION_SUFFIXES[0]
    files = [
        "pack/__init__.py", "pack/inner/__init__.py", "pack/data.json", "single.py", f"fast{suffix}",
        "space/part/__init__.py", "space/part/more.py", "space/loose.py", "pack-1.0.dist-info/RECORD", "../../../bin/x.py",
        "pack-1.0.data/scripts/x.py",
    ]  # fmt: skip
    assert revision._modules(map(PurePath, files)) == {
        "pack": PurePath("pack"),
        "single": PurePath("single.py"),
        "fast": PurePath(f"fast{suffix}"),
        "space.part": PurePath("space/part"),
        "space.loose": PurePath("space/loose.py"),
    }


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no clone of the repository")
def test_this_repository_builds(tmp_path):
    head = revision.build(ROOT / "suites" / "encoder.toml", "HEAD", None, tmp_path, print)
    assert set(head.packages) == {"bench", "methods", "reports"}
    assert ask(head, "bench.gate.__file__", "bench.gate") == head.packages["bench"] + "/gate/__init__.py"
    ours = "[point.load().__file__ for point in m.entry_points(group='methodbench.methods', name='methodbench')]"
    assert ask(head, ours, "importlib.metadata as m") == str([head.packages["methods"] + "/__init__.py"])
