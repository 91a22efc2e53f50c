"""Trainings that go on in another process: what that takes is saved every few minutes, and put back after a kill.

All that comes before the first step is done anew, for it follows from the seed: the model is loaded, and the methods put the
step together. Then what training has changed since is put back: the weights that train and all buffers, the optimizer's
state, what methods keep in ``training.state``, random numbers, the order of the data, and what was measured. So the steps
that follow are those that would have followed, bit for bit where the device computes the same twice.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy
import torch

from bench.machine import disk
from bench.measure import trust
from bench.stage import checkpoint
from bench.stage.job import Job
from bench.stage.loop import Training

FORMAT = 1

SHARE = 0.1
"""Of the time at most, saving takes: what takes long is done less often."""


class Stateful(Protocol):
    """What can give its state as data, and take it back, as torch's optimizers and scalers do."""

    def state_dict(self) -> Any:
        """Its state."""

    def load_state_dict(self, state: Any, /) -> object:
        """Take the state that another one gave."""


class Checkpoints:
    """The checkpoints of a `training`, in one file beside the one of the model that `job` leaves.

    `beside` is what else has a state, by name: what watches the training, say.
    """

    def __init__(self, training: Training, job: Job, contention: trust.Contention, **beside: Stateful) -> None:
        self._training = training
        self._job = job
        self._contention = contention
        self._beside = beside
        self._file = checkpoint.of_training(job.output)
        self._trust: dict[str, Any] | None = None
        self._said: set[str] = set()
        self._every = 60 * job.checkpoint_minutes
        self._next = time.monotonic() + self._every

    def go_on(self) -> None:
        """Put the last checkpoint back, where there is one. One that is of no use is removed, and the user is told why."""
        training, file = self._training, self._file
        if not self._every or not file.exists():
            return
        try:
            saved = self._read()
        except Exception as error:
            self._tell(f"the training begins anew: {_sentence(error)}")
            file.unlink(missing_ok=True)
            return
        try:
            self._put_back(saved)
        except BaseException:
            file.unlink(missing_ok=True)  # what went wrong would go wrong again
            raise
        step = len(training.losses)
        training.resumed.append(step)
        self._tell(f"the training goes on after step {step} of {training.steps}")

    def due(self) -> bool:
        """Whether it is time to save. After the last step there is nothing to go on with."""
        training = self._training
        over = training.stop or len(training.losses) == training.steps
        if not self._every or over or time.monotonic() < self._next:
            return False
        if why := _begins_anew(training):
            self._tell(f"the training would begin anew if it were stopped: {why}")
            self._next = float("inf")
        return not why

    def save(self) -> None:
        """Write a checkpoint in the place of the last one. If that cannot be done, the user is told, and training goes on.

        Raises:
            Diverged: a loss is not finite.
        """
        self._training.look()
        began = time.monotonic()
        try:
            with disk.atomic(self._file) as half, half.open("wb") as stream:
                half.chmod(0o600)
                torch.save(self._state(), stream)
        except Exception as error:
            why = disk.FULL if disk.full(error) else _sentence(error)
            self._tell(f"no checkpoint of the training was written: {why}")
        now = time.monotonic()
        self._next = now + max(self._every, (now - began) / SHARE)

    def trust(self) -> dict[str, Any]:
        """What the machine did while the steps were taken, in every process that took some."""
        here = self._contention.result()
        return self._trust if self._trust and self._trust["contended"] else here

    # -- what is saved -----------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        training = self._training
        own = _tensors(training)
        trains = set(map(id, training.parameters))
        places = {id(tensor): number for number, tensor in enumerate(own)}
        changing = {
            number: _apart(tensor)
            for number, tensor in enumerate(own)
            if id(tensor) in trains or not isinstance(tensor, torch.nn.Parameter)
        }
        seen = self.trust()
        if not (self._job.alone or seen["contended"]):
            seen |= {"contended": True, "reason": "another stage may have run beside it"}
        return {
            "of": _identity(self._job),
            "steps": training.steps,
            "shapes": [tuple(tensor.shape) for tensor in own],
            "tensors": changing,
            "optimizer": _optimizer(training.optimizer),
            "methods": dict(_methods(training.state, places)),
            "random": _random(),
            "losses": torch.stack(training.losses).cpu(),
            "tokens": training.tokens,
            "samples": training.samples,
            "step_seconds": training.step_seconds,
            "data_seconds": training.data_seconds,
            "largest": training.largest,
            "figures": training.figures.data,
            "resumed": training.resumed,
            "trust": seen,
            "beside": {name: each.state_dict() for name, each in self._beside.items()},
        }

    def _read(self) -> dict[str, Any]:
        """The last checkpoint.

        Raises:
            Exception: it cannot be read, or is of another training.
        """
        if why := _begins_anew(self._training):
            raise Unusable(why)
        checkpoint.private(self._file)
        try:
            saved: dict[str, Any] = torch.load(self._file, weights_only=False)
        except Exception as error:
            raise Unusable(f"{self._file} cannot be read ({type(error).__name__})") from error
        wanted = _identity(self._job)
        other = [name for name in wanted if saved["of"].get(name) != wanted[name]]
        shapes = [tuple(tensor.shape) for tensor in _tensors(self._training)]
        same = saved["steps"] == self._training.steps and saved["shapes"] == shapes
        if other or not same or saved["beside"].keys() != self._beside.keys():
            raise Unusable(f"{self._file} is of another {other[0] if other else 'training'}")
        return saved

    def _put_back(self, saved: Mapping[str, Any]) -> None:
        training = self._training
        own = _tensors(training)
        with torch.no_grad():
            for number, value in saved["tensors"].items():
                own[number].copy_(value)
        _put_back_optimizer(training.optimizer, saved["optimizer"])
        for name, entry in saved["methods"].items():
            there = training.state.get(name)
            if isinstance(entry, _State):
                there.load_state_dict(entry.state)  # type: ignore[union-attr]
            else:
                training.state[name] = _into(there, _unpacked(entry, own))
        training.losses = list(saved["losses"].unbind())
        training.look()
        training.tokens, training.samples = saved["tokens"], saved["samples"]
        training.earlier_seconds, training.data_seconds = saved["step_seconds"], saved["data_seconds"]
        training.largest, training.resumed = saved["largest"], saved["resumed"]
        training.figures.data.update(saved["figures"])
        self._trust = saved["trust"]
        for name, each in self._beside.items():
            each.load_state_dict(saved["beside"][name])
        training.coming = training.batches()
        training.first_batch = next(training.coming)
        for _ in range(len(training.losses) - 1):
            next(training.coming)
        _put_back_random(saved["random"])  # last, whatever was drawn by what came before

    def _tell(self, sentence: str) -> None:
        """Once."""
        if sentence not in self._said:
            self._said.add(sentence)
            self._training.progress(sentence, 0, 0)


class Unusable(Exception):
    """A checkpoint is none to go on with. The message says why."""


def _begins_anew(training: Training) -> str:
    """Why it cannot go on in another process; empty where it can."""
    if training.group.mesh is not None:
        return "several processes share it"
    return next((f"{method.name}: {method.begins_anew}" for method in training.methods if method.begins_anew), "")


def _identity(job: Job) -> dict[str, Any]:
    """What a training's numbers depend on, by what it is called in a message. A node's name stands for its recipe and data."""
    here = job.machine
    return {
        "format": FORMAT,
        "version of methodbench": version("methodbench"),
        "stage": (job.node, job.recipe, job.seed),
        "machine": (here.device, here.device_name, here.gpus, here.cpu, here.cpu_features, here.threads),
        "version of a package": (here.python, here.versions, here.cuda),
    }


def _sentence(error: Exception) -> str:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return said if isinstance(error, Unusable | OSError) else f"{type(error).__name__}: {said}"


# -- tensors


def _tensors(training: Training) -> list[torch.Tensor]:
    """The parameters and buffers of all models that train, always in one order."""
    models = (training.model, *training.beside)
    return list(itertools.chain.from_iterable((*model.parameters(), *model.buffers()) for model in models))


def _apart(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor`, to be written without what else its storage holds."""
    tensor = tensor.detach()
    plain = type(tensor) is torch.Tensor and tensor.layout == torch.strided
    return tensor.clone() if plain and tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


# -- the optimizer: its own `load_state_dict` makes other groups, while methods and optimizers of several parts hold these


def _optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {
        "groups": [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups],
        "states": [optimizer.state.get(parameter) for parameter in _parameters(optimizer)],
    }


def _put_back_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    for group, options in zip(optimizer.param_groups, saved["groups"], strict=True):
        group.update(options)
    for parameter, state in zip(_parameters(optimizer), saved["states"], strict=True):
        if state is not None:
            optimizer.state[parameter] = state


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[torch.nn.Parameter]:
    return itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)


# -- random numbers


def _random() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": numpy.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def _put_back_random(saved: Mapping[str, Any]) -> None:
    random.setstate(saved["python"])
    numpy.random.set_state(saved["numpy"])
    torch.set_rng_state(saved["torch"])
    if saved["cuda"]:
        torch.cuda.set_rng_state_all(saved["cuda"])


# -- what methods keep: data, in which a tensor of the models themselves is told by its place


@dataclass(frozen=True)
class _Place:
    number: int


@dataclass(frozen=True)
class _State:
    state: Any


class _NotData(Exception):
    """It is no data, and made anew."""


_LEAVES = (
    type(None), bool, int, float, complex, str, bytes, Path, enum.Enum, torch.dtype, torch.device, torch.Size, numpy.ndarray,
    numpy.generic,
)  # fmt: skip


def _methods(state: Mapping[str, Any], places: Mapping[int, int]) -> Iterator[tuple[str, Any]]:
    """The entries that are data or give their state as such. Functions, parts of the models and other objects are made anew."""

    def packed(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return _Place(places[id(value)]) if id(value) in places else _apart(value)
        return value

    for name, entry in state.items():
        if isinstance(entry, torch.nn.Module) and any(id(tensor) in places for tensor in entry.parameters()):
            continue
        if hasattr(entry, "load_state_dict"):
            yield name, _State(entry.state_dict())
            continue
        try:
            yield name, _mapped(entry, packed)
        except _NotData:
            continue


def _unpacked(entry: Any, own: list[torch.Tensor]) -> Any:
    return _mapped(entry, lambda value: own[value.number] if isinstance(value, _Place) else value)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value`, with other tensors and places in it.

    Raises:
        _NotData: there is something else in it than data.
    """
    if isinstance(value, _Place | torch.Tensor):
        return change(value)
    if isinstance(value, _LEAVES):
        return value
    made: Any
    if isinstance(value, dict):
        items = {_mapped(key, change): _mapped(each, change) for key, each in value.items()}
        made = copy.copy(value)
        made.clear()
        made.update(items)
        return made
    if isinstance(value, list | tuple | set | frozenset):
        each = [_mapped(each, change) for each in value]
        return type(value)(*each) if hasattr(value, "_fields") else type(value)(each)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        made = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(made, field.name, _mapped(getattr(value, field.name), change))
        return made
    raise _NotData


def _into(there: Any, value: Any) -> Any:
    """`value`, in the object that is `there` where that can hold it: others may hold the object."""
    if type(there) is not type(value):
        return value
    if isinstance(there, list):
        there[:] = value
    elif isinstance(there, dict | set):
        there.clear()
        there.update(value)
    elif dataclasses.is_dataclass(there):
        for field in dataclasses.fields(there):
            object.__setattr__(there, field.name, _into(getattr(there, field.name), getattr(value, field.name)))
    else:
        return value
    return there
