"""The project's commands: ``nox -s bench`` runs the main job, ``nox -s tests`` the tests."""

import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["tests"]
# pip, for the lock has no address of torch: pip finds the build that the machine is set up for.
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True

PROJECT = nox.project.load_toml("pyproject.toml")
LOCK = Path("constraints.txt")
HEADER = """\
# What `nox -s bench`, `nox -s tests` and CI install: one version of every package, transitive ones, extras and tools too,
# for the Pythons and systems that its marker admits. Made by `nox -s lock` from pyproject.toml; do not edit it.
# `nox -s lock` changes what no longer fits, `nox -s lock -- --upgrade` takes the newest of all, and
# `nox -s lock -- --upgrade-package NAME` of one. Run `nox -s tests` before you commit it.
"""
EVERYTHING = ".[onnx,openvino,cluster,smollm2,lm-eval,dialogue,translation,tensorboard,wandb,mlflow,trackio]"
PROCESSES = ("--numprocesses=2", "--dist=worksteal")


def wanted(*groups: str) -> tuple[str, ...]:
    """What the dependency groups ask for."""
    return nox.project.dependency_groups(PROJECT, *groups) if groups else ()


def install(session: nox.Session, *groups: str, what: str = ".") -> None:
    """Install the package and `groups` as the lock has them, and build it with what the lock has."""
    session.install("-e", what, *wanted(*groups), "-c", str(LOCK), env={"PIP_BUILD_CONSTRAINT": str(LOCK.resolve())})


@nox.session
def bench(session: nox.Session) -> None:
    """Run a suite, suites/encoder.toml by default, and write its report. `nox -s bench -- SUITE [OPTIONS]`."""
    install(session)
    session.run("methodbench", "run", *(session.posargs or ["suites/encoder.toml"]))


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, in two processes; a browser for those of pages is installed where there is none. `nox -s tests -- -m slow` runs the slow ones, `-- -m ""` all, `-- -n 0` in one."""
    install(session, "tests", what=EVERYTHING)
    session.run("python", "-m", "tests.browser")
    session.run("pytest", *PROCESSES, *session.posargs, env={"METHODBENCH_LOCKED": "1"})


@nox.session
def plugin(session: nox.Session) -> None:
    """Build the example of a package with a method, install it beside this one, and run its tests."""
    install(session, "tests")
    session.install("./examples/plugin", "-c", str(LOCK), env={"PIP_BUILD_CONSTRAINT": str(LOCK.resolve())})
    with session.chdir("examples/plugin"):
        session.run("pytest", *session.posargs)
        session.run("methodbench", "show", "l2_sp")


@nox.session
def tests_latest(session: nox.Session) -> None:
    """Run the tests with the newest packages that pyproject.toml admits, whatever the lock says; torch stays the lock's."""
    torch = next(line for line in LOCK.read_text().splitlines() if line.startswith("torch=="))
    session.install("--upgrade", "--upgrade-strategy=eager", "-e", EVERYTHING, *wanted("tests"), torch)
    session.run("pip", "freeze")
    session.run("python", "-m", "tests.browser")
    session.run("pytest", *PROCESSES, *session.posargs)


@nox.session(venv_backend="none")
def dev(session: nox.Session) -> None:
    """Make .venv, with all that is needed to work on the project, as the lock has it."""
    session.run(sys.executable, "-m", "virtualenv", "--quiet", ".venv")
    session.run(
        *(".venv/bin/python", "-m", "pip", "install", "-e", EVERYTHING),
        *(*wanted("tests", "lint", "types", "docs", "tools"), "-c", str(LOCK)),
        env={"PIP_BUILD_CONSTRAINT": str(LOCK.resolve())},
    )


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documents as a site, build/docs/index.html; a link that leads nowhere is an error."""
    session.install(*wanted("docs"), "-c", str(LOCK))
    session.run("mkdocs", "build", "--strict", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def lock(session: nox.Session) -> None:
    """Make constraints.txt anew. `nox -s lock -- --upgrade` takes the newest of all packages."""
    session.install("uv", "-c", str(LOCK))
    groups = [f"--group={name}" for name in PROJECT["dependency-groups"]]
    session.run(
        *("uv", "pip", "compile", "pyproject.toml", "--all-extras", *groups),
        *("--universal", "--python-version=3.11", "--no-header", "--no-annotate", "--quiet", f"--output-file={LOCK}"),
        *session.posargs,
    )
    LOCK.write_text(HEADER + LOCK.read_text())


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and the import contracts."""
    install(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types, strictly."""
    install(session, "types")
    session.run("mypy")


@nox.session
def overhead(session: nox.Session) -> None:
    """Measure what the harness itself costs, as ratios, side by side."""
    install(session, "tests")
    session.run("python", "-m", "tests.overhead", *session.posargs)
    session.run("pytest", "tests/benchmarks", "--benchmark-enable", "--benchmark-columns=median,iqr,rounds")


@nox.session
def mutants(session: nox.Session) -> None:
    """Plant mistakes and see who notices. `nox -s mutants -- FAMILY … [-k TEXT] [-j N]`; all families by default."""
    install(session, "tests", what=".[onnx,openvino]")
    session.run("python", "-m", "tests.mutants", *session.posargs)


@nox.session
def gate(session: nox.Session) -> None:
    """Hold the working tree to a revision: is anything slower, larger or worse? `nox -s gate -- --base origin/main`."""
    install(session)
    session.run("methodbench", "gate", "suites/gate.toml", *(session.posargs or ["--base", "HEAD"]))


@nox.session(name="gate-power")
def gate_power(session: nox.Session) -> None:
    """Measure how often our gate and other tools' rules raise false alarms, and what they find. `-- --trials N …`."""
    install(session, "tests", "peers")
    session.run("pytest", "tests/gate_power")
    session.run("python", "-m", "tests.gate_power", *session.posargs)


@nox.session
def calibration(session: nox.Session) -> None:
    """Measure how often a report's intervals and verdicts are wrong, on simulated suites. `-- --suites N`."""
    install(session, "tests")
    session.run("python", "-m", "tests.calibration", *session.posargs)


@nox.session
def report(session: nox.Session) -> None:
    """Write the report of a results folder. `nox -s report -- DIR [OPTIONS]`."""
    install(session)
    session.run("methodbench", "report", *(session.posargs or ["results/encoder"]))


@nox.session
def publish(session: nox.Session) -> None:
    """Build the documents and an index of results folders as one site, build/site. `nox -s publish -- DIR ...`."""
    install(session, "docs")
    site = Path("build", "site")
    session.run("mkdocs", "build", "--strict", "--site-dir", str(site.resolve()), env={"NO_MKDOCS_2_WARNING": "1"})
    if folders := session.posargs or sorted(str(file.parent) for file in Path("results").glob("*/records.jsonl")):
        session.run("methodbench", "site", *folders, "--out", str(site / "results"))
    (site / ".nojekyll").touch()
