"""One piece of work for a process of its own, as it is asked for."""

from __future__ import annotations

import functools
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol

from bench.machine.machine import Machine
from bench.models.base import Model
from bench.models.registry import open_model
from bench.recipe import recipe
from bench.recipe.recipe import Stage
from bench.suite.suite import Budget, Measure
from bench.tasks.table import DataTable

UNSEEN: Mapping[str, float] = MappingProxyType({})


class Progress(Protocol):
    """Told what is going on, how much of it is done, and of how much.

    ``seen`` are figures of the moment: of a training, the ``loss`` that was looked at last and the ``tokens`` so far.
    Where `of` is 0, `what` is a sentence for the user, and nothing else is told.
    """

    def __call__(self, what: str, done: int, of: int, seen: Mapping[str, float] = UNSEEN, /) -> None:
        """Tell it."""


def untold(what: str, done: int, of: int, seen: Mapping[str, float] = UNSEEN) -> None:
    """Progress that nobody is told."""


@dataclass(frozen=True)
class Share:
    """What one machine does of a stage that several machines share: `here` of its processes, from number `first` on.

    They meet the others at ``address``, where the machine of the first process listens (``listener``); None as long as
    it does not.
    """

    first: int
    here: int
    address: tuple[str, int] | None = None
    listener: socket.socket | None = None


@dataclass(frozen=True)
class Turns:
    """Another training that a job's takes turns with: ``recipe`` is as the job's, and its input is the job's ``turns_input``.

    A turn is so many ``steps``. Where not both are ``alive`` at once, each of four processes takes the turns of one side, in the
    order A B B A, and memory holds one model.
    """

    recipe: str
    steps: int
    alive: bool = True


LIBRARIES = ("transformers", "peft")
"""The formats of an export that torch runs; each runtime's is another."""


@dataclass(frozen=True)
class Export:
    """A ``folder``, which is empty, for a model that others load: in this ``format``, or in the model's own where it is empty.

    ``refused`` says why a format cannot hold the model, of those that only a runtime's own method makes.
    """

    folder: Path
    format: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One piece of work for one process of its own.

    ``what`` is "stage" (run a node, leave the model in ``output``), "serve" (load ``output``, measure inference), "turns"
    (time a training in turns with another), "make" (make the model that stages begin with), "untrained" (score that model)
    or "export" (write the model of ``output`` where others load it, as ``export`` says).
    ``recipe`` has every argument written out; ``input`` is the checkpoint that the parent left, ``uncompressed`` that of
    the uncompressed model, where a stage made it. ``gpus`` are those that it may see, as ``CUDA_VISIBLE_DEVICES`` names
    them; all where none is named. ``share`` is this machine's, where it does not run all of a stage's processes.
    ``temporary`` is the folder for its temporary files, made before it and removed after it, whatever its end; the
    system's where there is none. ``turns`` says what "turns" are. A training is saved every ``checkpoint_minutes``, so that
    it can go on in another process; never where that is 0. It is ``alone`` where no other job can run beside it.
    """

    what: Literal["stage", "serve", "turns", "make", "untrained", "export"]
    node: str
    recipe: str
    model: str
    task: str | DataTable
    suite_folder: Path
    seed: int
    budget: Budget
    measure: Measure
    machine: Machine
    input: Path | None
    output: Path
    log: Path
    process: int = 0
    uncompressed: Path | None = None
    gpus: tuple[str, ...] = ()
    share: Share | None = None
    temporary: Path | None = None
    turns: Turns | None = None
    turns_input: Path | None = None
    allow_remote_code: bool = False
    checkpoint_minutes: float = 0.0
    alone: bool = True
    export: Export | None = None

    def source(self) -> Model:
        """The model that the recipe begins with.

        Raises:
            ModelError: it is not there.
        """
        return open_model(self.model, self.suite_folder, allow_remote_code=self.allow_remote_code)

    @functools.cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the recipe; this job's is the last.

        Read where they are asked for: a process that is made for a job has its methods imported, and text always travels.

        Raises:
            RecipeError: a method is not registered there.
        """
        return recipe.parse(self.recipe).stages


def threads_each(machine: Machine, processes: int) -> int:
    """The CPU threads of each of a job's processes: they are divided, but where there are too few, each has one."""
    return max(1, machine.threads // processes)
