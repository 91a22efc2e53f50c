"""Weights & Biases: a run for each cell, in the project of the suite."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import urllib.parse
from functools import cached_property
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Literal

from bench.machine.machine import MachineError
from reports.trackers.base import Entry

_WAIT = 5.0
"""Seconds that the server may take to answer before runs are written as files."""


class Tracker:
    """Sends to the server of ``WANDB_BASE_URL``, as ``WANDB_MODE`` says. Without a key or a network it writes ``DIR/wandb``,
    as wandb does when it is offline."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def place(self) -> str:
        """The server, or the folder."""
        if self._mode == "online":
            return f"at {self._server}"
        return f"offline, in {self._folder / 'wandb'}: `wandb sync {self._folder / 'wandb'}` uploads them"

    @property
    def _server(self) -> str:
        return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"

    @cached_property
    def _mode(self) -> Literal["online", "offline"]:
        said = os.environ.get("WANDB_MODE")
        if said == "disabled":
            raise MachineError("WANDB_MODE=disabled: wandb would send nothing; unset it, or set it to offline")
        if said:
            return "offline" if said in ("offline", "dryrun") else "online"
        return "online" if self._key() and self._answers() else "offline"

    def _key(self) -> bool:
        """Whether wandb will find a key, in the environment or where ``wandb login`` left it."""
        if os.environ.get("WANDB_API_KEY"):
            return True
        try:
            return netrc().authenticators(urllib.parse.urlsplit(self._server).hostname or "") is not None
        except (OSError, NetrcParseError):
            return False

    def _answers(self) -> bool:
        server = urllib.parse.urlsplit(self._server)
        try:
            with socket.create_connection((server.hostname or "", server.port or 443), _WAIT):
                return True
        except OSError:
            return False

    def send(self, entry: Entry) -> None:
        """Make the cell's run. Of one that is on the server already, the figures are replaced.

        Raises:
            wandb.Error: the server does not take it.
        """
        import wandb

        # A run on the server keeps its steps, so another curve is another run.
        id_ = hashlib.sha256(json.dumps([entry.id, entry.curve]).encode()).hexdigest()[:16]
        if self._mode == "offline":
            for before in (self._folder / "wandb").glob(f"offline-run-*-{id_}"):
                shutil.rmtree(before)
        run = wandb.init(
            project=entry.project, id=id_, name=entry.name, group=entry.group, config=dict(entry.config),
            dir=self._folder, mode=self._mode, resume="allow" if self._mode == "online" else None,
            settings=wandb.Settings(console="off", silent=True, init_timeout=30, x_disable_stats=True, x_disable_meta=True),
        )  # fmt: skip
        try:
            for step, point in entry.curve.items():
                if step >= run.step:
                    run.log(dict(point), step=step)
            run.summary.update(dict(entry.figures))
        finally:
            run.finish(exit_code=0 if entry.ok else 1)
