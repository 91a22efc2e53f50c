"""The command line. Exit status: 0 all well, 1 something ran and ended neither ok nor refused, 2 wrong use or all was
refused, 130 interrupted.

Each command is a file. What it needs is imported inside it: ``--help`` and ``list`` must not wait for what only ``run``
needs.
"""

from __future__ import annotations

import sys

import typer

from bench.cli.calibrate import calibrate_
from bench.cli.compare import compare_
from bench.cli.doctor import doctor
from bench.cli.gate import gate_
from bench.cli.history import history_
from bench.cli.list import list_
from bench.cli.plan import plan_
from bench.cli.report import report
from bench.cli.run import run_
from bench.cli.say import fail
from bench.cli.schema import schema
from bench.cli.show import show

app = typer.Typer(
    help="Which training or compression method should I use? A benchmark whose numbers can be trusted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command("list")(list_)
app.command()(show)
app.command("plan")(plan_)
app.command("run")(run_)
app.command()(report)
app.command("gate")(gate_)
app.command("calibrate")(calibrate_)
app.command("compare")(compare_)
app.command("history")(history_)
app.command()(doctor)
app.command()(schema)


def main() -> None:
    """The ``methodbench`` command."""
    from bench.machine import disk, output
    from bench.machine.machine import MachineError
    from bench.metrics.metric import MetricError
    from bench.recipe.errors import RecipeError
    from bench.recipe.registry import RegistryError
    from bench.record.errors import RecordError, Unwritten

    users_mistakes: tuple[type[Exception], ...] = (MachineError, MetricError, RecipeError, RecordError, RegistryError)
    output.open_streams()
    try:
        app()
    except (disk.Full, Unwritten) as error:
        fail(f"stopped: {error}", 1)
    except users_mistakes as error:
        fail(f"error: {error}")
    except OSError as error:
        said = f"{error.filename2 or error.filename or 'a file'}: {error.strerror or error}"
        if disk.full(error):
            fail(f"stopped: {said}; free some space and run the same command again", 1)
        fail(f"error: {said}")
    except ValueError as error:
        if type(error).__name__ != "SuiteError":  # importing it would import pydantic for every --help
            raise
        fail(f"error: {error}")
    finally:
        # What `run` prints is in its report too.
        if (lost := output.unwritten()) and sys.argv[1:2] != ["run"]:
            fail(f"stopped: standard output: {lost.strerror}", 1)
