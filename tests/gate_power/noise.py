"""Models of what disturbs timings, simulated as the raw repeats of workers.

A worker is a fresh process, with an offset of its own, and its value is the median of its repeats. A pair is a worker of
the base and one of the head, side by side. d is the logarithm of the ratio of their values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

REPEATS = 6
WORKERS = 20
"""Of a stored baseline, and of each side that a peer sees: as many processes as pyperf starts by default."""


@dataclass(frozen=True)
class Trials:
    """Seconds of repeats. ``base`` and ``head`` are (trials, pairs, repeats), side by side and of the same code;
    ``stored`` is (trials, workers, repeats), of the same code at another moment."""

    base: np.ndarray
    head: np.ndarray
    stored: np.ndarray

    @property
    def d(self) -> np.ndarray:
        """The differences of pairs, (trials, pairs), of neighbouring repeats as the gate's; positive: the head is slower."""
        return np.median(np.log(self.head / self.base), axis=2)


@dataclass(frozen=True)
class Noise:
    """A machine. All shares are of the time, as standard deviations of its logarithm where nothing else is said.

    ``worker``: of the offsets of workers. ``repeat``: of the repeats of a worker. ``moment``: of the machine's speed
    between two moments, which a pair has in common and a stored baseline has not. ``freedom``: of Student's t, which
    offsets are drawn from; infinite is the normal distribution. ``hiccups``: part of the repeats that take 1.1 to 2 times
    as long. ``outliers``: part of the workers that take 1.3 to 3 times as long. ``drift``: the machine becomes 10 to 20 %
    faster or slower while the pairs are measured, and as much between two moments. ``memory``: correlation of each
    repeat with the one before it, and of each worker with the one before it on its side.
    """

    name: str
    worker: float
    repeat: float
    moment: float
    freedom: float = math.inf
    hiccups: float = 0.0
    outliers: float = 0.0
    drift: bool = False
    memory: float = 0.0

    def draw(self, rng: np.random.Generator, trials: int, pairs: int) -> Trials:
        """`trials` independent sets of `pairs` pairs, each with a stored baseline."""
        shape = (trials, pairs)
        course = np.zeros(shape)
        moments = self.moment * rng.standard_normal((trials, 1))
        if self.drift:
            course = self._drifts(rng, trials) * np.linspace(0, 1, pairs)
            moments = self._drifts(rng, trials)
        base, head = self._workers(rng, shape), self._workers(rng, shape)
        stored = self._workers(rng, (trials, WORKERS))
        return Trials(
            np.exp(base + course[..., None]), np.exp(head + course[..., None]), np.exp(stored + moments[..., None])
        )

    def _drifts(self, rng: np.random.Generator, trials: int) -> np.ndarray:
        """How far the machine drifts in each trial, (trials, 1)."""
        return rng.choice([-1.0, 1.0], (trials, 1)) * np.log(rng.uniform(1.1, 1.2, (trials, 1)))

    def _workers(self, rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        """Logarithms of the repeats of independent workers, (trials, workers, repeats)."""
        offsets = rng.standard_normal(shape)
        if math.isfinite(self.freedom):  # of variance 1 as well
            offsets = rng.standard_t(self.freedom, shape) * math.sqrt(1 - 2 / self.freedom)
        offsets = self.worker * self._remembering(offsets)
        offsets += (rng.random(shape) < self.outliers) * np.log(rng.uniform(1.3, 3, shape))
        repeats = self.repeat * self._remembering(rng.standard_normal((*shape, REPEATS)))
        repeats += (rng.random(repeats.shape) < self.hiccups) * np.log(rng.uniform(1.1, 2, repeats.shape))
        return offsets[..., None] + repeats

    def _remembering(self, values: np.ndarray) -> np.ndarray:
        """`values`, independent and of variance 1, as an autoregressive series of variance 1 along the last axis."""
        series = values.copy()
        if self.memory:
            for at in range(1, values.shape[-1]):
                series[..., at] = self.memory * series[..., at - 1] + math.sqrt(1 - self.memory**2) * values[..., at]
        return series


NOISE = (
    Noise("quiet GPU", worker=0.002, repeat=0.0015, moment=0.005),
    Noise("typical CI", worker=0.006, repeat=0.007, moment=0.03, hiccups=0.03),
    Noise("noisy VM", worker=0.0133, repeat=0.01, moment=0.05, freedom=5),
    Noise("drift", worker=0.006, repeat=0.007, moment=0.0, drift=True),
    Noise("outliers", worker=0.006, repeat=0.007, moment=0.03, outliers=0.05),
    Noise("autocorrelated", worker=0.006, repeat=0.007, moment=0.03, memory=0.5),
    Noise("autocorrelated, wide", worker=0.035, repeat=0.01, moment=0.05, memory=0.5),
)
