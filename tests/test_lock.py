"""The lock: for each Python and system it pins, once, all that the project asks for and all that is installed."""

import os
import re
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PYTHONS = [
    text.rpartition(" ")[2] for text in PROJECT["project"]["classifiers"] if "Programming Language :: Python ::" in text
]
SYSTEMS = {
    "Linux x86_64": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
    "Linux aarch64": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64"},
    "macOS": {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"},
}


def pins(**environment: str) -> dict[str, Version]:
    """The versions that hold in `environment`, by name; what it leaves out is as here."""
    found: dict[str, Version] = {}
    for line in LINES:
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate(environment):
            (specifier,) = wanted.specifier
            assert specifier.operator == "==", line
            name = canonicalize_name(wanted.name)
            assert name not in found, f"{name} is pinned twice for {environment}"
            found[name] = Version(specifier.version)
    return found


def asked_for() -> list[Requirement]:
    """All that the package, its extras and the dependency groups ask for, and what builds it."""
    project = PROJECT["project"]
    texts = [*project["dependencies"], *PROJECT["build-system"]["requires"]]
    for more in (project["optional-dependencies"], PROJECT["dependency-groups"]):
        texts += [text for each in more.values() for text in each]
    return [Requirement(text) for text in texts]


def test_it_holds_for_all_machines_alike():
    assert len(LINES) > 100
    for line in LINES:
        assert not Requirement(line).url, f"{line}: a build is taken from where the machine has it"
        assert not Version(str(Requirement(line).specifier)[2:]).local, f"{line}: a build belongs to one machine"


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_all_that_is_asked_for_is_pinned_within_its_range(python, system):
    pinned = pins(python_version=python, python_full_version=f"{python}.0", **SYSTEMS[system])
    for wanted in asked_for():
        assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), wanted


@pytest.mark.skipif("METHODBENCH_LOCKED" not in os.environ, reason="`nox -s tests` makes the environment by the lock")
def test_all_that_is_installed_is_pinned():
    pinned = pins()
    # Of the environment's own folders: a test that imports Ray has put packages that Ray brings on the path.
    folders = list({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    installed = metadata.distributions(path=folders)
    seen = {canonicalize_name(each.name): Version(Version(each.version).public) for each in installed}
    # pip comes with the environment, and the package is what is tested.
    others = {name: str(version) for name, version in seen.items() if name not in ("pip", "methodbench")}
    assert len(others) > 50
    assert others == {name: str(pinned.get(name, "not in constraints.txt")) for name in others}, (
        "`nox -s lock` pins what is new in pyproject.toml; of an environment from before, remove the folder .nox/tests"
    )


def test_what_is_likely_to_break_has_an_upper_bound():
    ends = {wanted.name for wanted in asked_for() if any("<" in part.operator for part in wanted.specifier)}
    assert {"torch", "transformers", "peft", "torchao", "bitsandbytes", "torch-pruning"} <= ends


def test_every_python_that_is_supported_is_tested():
    assert PROJECT["project"]["requires-python"] == f">={PYTHONS[0]}"
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert workflow["jobs"]["check"]["strategy"]["matrix"]["python"] == PYTHONS


@pytest.mark.parametrize(
    "file", ["README.md", ".ci/run", ".github/workflows/ci.yml", ".github/workflows/gpu.yml", "action.yml"]
)
def test_every_command_that_installs_reads_the_lock(file):
    lines = [line for line in (ROOT / file).read_text().splitlines() if re.search("pip install", line)]
    assert lines
    assert all("constraints.txt" in line for line in lines), lines
