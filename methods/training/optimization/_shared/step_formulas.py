"""What the optimizers do in a step, written out from their papers and torch's documentation. For evidence; imports torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

DECAY = {"adamw": 0.01, "adamw_8bit": 0.01, "muon": 0.1}
"""Weight decay where nothing is said; the others have none."""

MOMENTUM = {"sgd": 0.9, "sgd_8bit": 0.9, "muon": 0.95}
"""Where none is given."""

_BLOCK = 256
"""Elements that share a scale in bitsandbytes' 8-bit states."""

State = Mapping[str, Any]


def step(
    name: str, weight: torch.Tensor, gradient: torch.Tensor, state: State, *, rate: float, decay: float, momentum: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """By how much a step of optimizer `name` moves `weight`, from the `state` before it, and its first moment after it.

    The moment is None where the move tells all of it.
    """
    kind = name.removesuffix("_8bit")
    weight, gradient = weight.float(), gradient.float()
    if kind == "sgd":
        gradient = gradient + decay * weight
        key = "state1" if name == "sgd_8bit" else "momentum_buffer"
        return -rate * (momentum * _held(state, key, weight) + gradient if momentum else gradient), None
    if kind in ("adam", "adamw"):
        if kind == "adam":
            gradient = gradient + decay * weight
        keys = ("state1", "state2") if name == "adamw_8bit" else ("exp_avg", "exp_avg_sq")
        mean, square = (_held(state, key, weight) for key in keys)
        t = float(state["step"]) + 1
        mean = (0.9 * mean + 0.1 * gradient) / (1 - 0.9**t)
        square = (0.999 * square + 0.001 * gradient.square()) / (1 - 0.999**t)
        move = -rate * mean / (square.sqrt() + 1e-8)
        return (move - rate * decay * weight if kind == "adamw" else move), None
    if kind == "lion":
        held = _held(state, "state1", weight)
        # The paper's: betas of .9 for the step and of .99 for what is remembered; decay beside the step.
        return -rate * ((0.9 * held + 0.1 * gradient).sign() + decay * weight), 0.99 * held + 0.01 * gradient
    if kind == "muon":
        held = momentum * state["momentum_buffer"] + (1 - momentum) * gradient
        update = _orthogonal((1 - momentum) * gradient + momentum * held)
        return -rate * (0.2 * math.sqrt(max(weight.shape)) * update + decay * weight), held
    assert kind == "adafactor"
    return _adafactor(weight, gradient, state, rate, decay), None


def size(state: State, weight: torch.Tensor) -> float:
    """The root mean square of what the gradients were lately, or a millionth where they were less or nothing tells."""
    for key in ("momentum_buffer", "exp_avg", "state1"):
        if key in state:
            return max(1e-6, float(_held(state, key, weight).square().mean().sqrt()))
    for key in ("variance", "row_var"):
        if key in state:
            return max(1e-6, float(state[key].mean().sqrt()))
    return 1e-2


def _held(state: State, key: str, like: torch.Tensor) -> torch.Tensor:
    """A part of the state in float32, out of bitsandbytes' 8 bits where it is in those."""
    value: torch.Tensor = state[key]
    if value.dtype != torch.uint8:
        return value.float()
    number = key.removeprefix("state")
    scales = state[f"absmax{number}"].float().repeat_interleave(_BLOCK)[: value.numel()]
    found: torch.Tensor = (state[f"qmap{number}"][value.flatten().long()] * scales).view_as(like)
    return found


def _orthogonal(update: torch.Tensor) -> torch.Tensor:
    """Five of Muon's Newton-Schulz steps."""
    wide = update.T if update.shape[0] > update.shape[1] else update
    wide = wide / wide.norm()
    for _ in range(5):
        gram = wide @ wide.T
        wide = 3.4445 * wide + (-4.775 * gram + 2.0315 * gram @ gram) @ wide
    found: torch.Tensor = wide.T if update.shape[0] > update.shape[1] else wide
    return found


def _adafactor(weight: torch.Tensor, gradient: torch.Tensor, state: State, rate: float, decay: float) -> torch.Tensor:
    t = float(state["step"]) + 1
    new, least = t**-0.8, torch.finfo(weight.dtype).eps
    relative = max(1e-3, float(weight.square().mean().sqrt())) * min(rate, t**-0.5)
    squares = gradient.square()
    if weight.dim() > 1:
        rows = (1 - new) * state["row_var"] + new * squares.mean(-1, keepdim=True)
        columns = (1 - new) * state["col_var"] + new * squares.mean(-2, keepdim=True)
        squares = rows * columns / rows.mean(-2, keepdim=True).clamp(min=least)
    else:
        squares = (1 - new) * state["variance"] + new * squares
    update = gradient / squares.sqrt().clamp(min=least)
    move: torch.Tensor = -relative * update / max(1.0, float(update.square().mean().sqrt())) - rate * decay * weight
    return move
