"""The project's commands: ``nox -s bench`` runs the main job, ``nox -s tests`` the tests."""

import nox

nox.options.sessions = ["tests"]
# pip reads the constraints that pin torch's build; uv would not.
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True

CONSTRAINTS = ("-c", "constraints.txt")


def install(session: nox.Session, *groups: str, what: str = ".") -> None:
    # torch first: the pinned build serves all that ask for "torch" afterwards.
    session.install("torch", *CONSTRAINTS)
    wanted = nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), *groups) if groups else ()
    session.install("-e", what, *wanted, *CONSTRAINTS)


@nox.session
def bench(session: nox.Session) -> None:
    """Run a suite, suites/encoder.toml by default, and write its report. `nox -s bench -- SUITE [OPTIONS]`."""
    install(session)
    session.run("methodbench", "run", *(session.posargs or ["suites/encoder.toml"]))


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests. `nox -s tests -- -m slow` runs the slow ones, `-- -m ""` all."""
    install(session, "tests", what=".[onnx,openvino,cluster]")
    session.run("pytest", *session.posargs)


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
def report(session: nox.Session) -> None:
    """Write the report of a results folder. `nox -s report -- DIR [OPTIONS]`."""
    install(session)
    session.run("methodbench", "report", *(session.posargs or ["results/encoder"]))
