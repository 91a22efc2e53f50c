"""The command line.

Each command is a file. What it needs is imported inside it: ``--help`` and ``list`` must not wait for what only ``run``
needs.
"""

from __future__ import annotations

import inspect
import sys
from typing import Annotated

import typer

from bench.cli import options
from bench.cli.calibrate import calibrate_
from bench.cli.compare import compare_
from bench.cli.doctor import doctor
from bench.cli.export import EXIT_STATUS as EXPORT_EXIT_STATUS
from bench.cli.export import export_
from bench.cli.gate import gate_
from bench.cli.history import history_
from bench.cli.init import init_
from bench.cli.list import list_
from bench.cli.open import open_
from bench.cli.pick import EXIT_STATUS as PICK_EXIT_STATUS
from bench.cli.pick import pick_
from bench.cli.plan import plan_
from bench.cli.report import report
from bench.cli.rerun import rerun_
from bench.cli.run import run_
from bench.cli.say import fail
from bench.cli.schema import schema
from bench.cli.show import show
from bench.cli.site import site_
from bench.cli.track import track_

app = typer.Typer(
    help="Which training or compression method should I use? A benchmark whose numbers can be trusted.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"methodbench {version('methodbench')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What the command itself is told, before the name of one of its commands."""


app.command("init")(init_)
app.command("list")(list_)
app.command()(show)
app.command("plan", epilog=options.EXIT_STATUS)(plan_)
app.command("run", epilog=options.EXIT_STATUS)(run_)
app.command("rerun", epilog=options.EXIT_STATUS)(rerun_)
app.command()(report)
app.command("open")(open_)
app.command("pick", epilog=PICK_EXIT_STATUS)(pick_)
app.command("export", epilog=EXPORT_EXIT_STATUS)(export_)
app.command("gate", epilog=options.GATE_EXIT_STATUS)(gate_)
app.command("calibrate")(calibrate_)
app.command("compare")(compare_)
app.command("history")(history_)
app.command("site")(site_)
app.command("track")(track_)
app.command()(doctor)
app.command()(schema)
for _command in app.registered_commands:
    # Typer would cut it where the line ends.
    _command.short_help = (inspect.getdoc(_command.callback) or "").split(". ")[0].rstrip(".")


def main() -> None:
    """The ``methodbench`` command."""
    from bench.machine import disk, output
    from bench.machine.machine import MachineError
    from bench.metrics.metric import MetricError
    from bench.recipe.errors import RecipeError, notes
    from bench.recipe.registry import RegistryError
    from bench.record.errors import RecordError, Unwritten

    users_mistakes: tuple[type[Exception], ...] = (MachineError, MetricError, RecipeError, RecordError, RegistryError)
    output.open_streams()
    try:
        app()
    except (disk.Full, Unwritten) as error:
        fail(f"stopped: {error}", 1)
    except users_mistakes as error:
        fail("\n".join([f"error: {error}", *notes(error)]))
    except OSError as error:
        said = f"{error.filename2 or error.filename or 'a file'}: {error.strerror or error}"
        if disk.full(error):
            fail(f"stopped: {said}; free some space and run the same command again", 1)
        fail(f"error: {said}")
    except ValueError as error:
        if type(error).__name__ != "SuiteError":  # importing it would import pydantic for every --help
            raise
        fail("\n".join([f"error: {error}", *notes(error)]))
    finally:
        # What `run` prints is in its report too.
        if (lost := output.unwritten()) and sys.argv[1:2] not in (["run"], ["rerun"]):
            fail(f"stopped: standard output: {lost.strerror}", 1)
