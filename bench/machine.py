"""The machine as planning and records see it. Nothing here imports torch or touches the CUDA driver."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """What a result depends on. ``device`` is where stages run: "cpu" or "cuda". Memory in bytes."""

    device: str
    device_name: str
    gpus: int
    cpu: str
    cpu_features: tuple[str, ...]
    cores: int
    threads: int
    memory: int
    system: str
    python: str
    versions: tuple[tuple[str, str], ...]
