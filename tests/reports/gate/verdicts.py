"""Verdicts to report: figures that a reader can check by hand, and names that break what is not escaped."""

from dataclasses import replace

from bench.gate.verdict import Check, Grown, Side, Verdict

HOSTILE = 'a|b <x> & "q" `c`\n::error::\x00\x1b[31m\u2028*_[y](z)'

BASE = (100.0, 104.0, 98.0, 102.0, 99.0, 101.0)
HEAD = (95.0, 98.0, 93.0, 97.0, 94.0, 96.0)

SLOWER = Check(
    recipe="lora",
    metric="train_tokens_per_second",
    title="Training throughput",
    unit="tokens/s",
    better="higher",
    how="pairs",
    outcome="regression",
    scale="ratio",
    allowed="3%",
    tolerance=0.03,
    base=100.5,
    head=95.5,
    change=0.051,
    interval=(0.043, 0.059),
    smallest=0.021,
    p_value=1e-6,
    level=0.005,
    pairs=6,
    clock="cpu",
    wall_change=0.06,
    base_values=BASE,
    head_values=HEAD,
    grown=(Grown("aten::mm", 0.0010, 0.0015), Grown("aten::add", 0.0001, 0.0002)),
)
LATENCY = replace(
    SLOWER,
    metric="latency_1x16",
    title="Latency 1×16",
    unit="s",
    better="lower",
    outcome="inconclusive",
    reason="the smallest detectable change is larger than the tolerance",
    base=0.0100,
    head=0.0098,
    change=-0.02,
    interval=(-0.05, 0.01),
    smallest=0.044,
    base_values=tuple(value / 10_000 for value in BASE),
    head_values=tuple(value / 10_000 for value in HEAD),
    wall_change=None,
    grown=(),
)
MEMORY = replace(
    LATENCY,
    metric="size_on_disk",
    title="Size on disk",
    unit="B",
    how="exact",
    outcome="pass",
    scale="difference",
    allowed="16 MiB",
    tolerance=2.0**24,
    reason="",
    base=1e8,
    head=1e8 + 1e6,
    change=1e6,
    interval=None,
    smallest=None,
    p_value=None,
    level=None,
    pairs=0,
    clock="",
    base_values=(1e8,),
    head_values=(1.01e8,),
)
QUALITY = replace(
    MEMORY,
    recipe="full",
    metric="accuracy",
    title="Accuracy",
    unit="fraction",
    better="higher",
    how="items",
    allowed="0.5 points",
    tolerance=0.005,
    base=0.75,
    head=0.752,
    change=-0.002,
    interval=(-0.006, 0.002),
    base_values=(0.75,),
    head_values=(0.752,),
)
SKIPPED = replace(
    MEMORY,
    recipe="full",
    metric="step_flops",
    title="FLOPs a step",
    unit="FLOP",
    outcome="skipped",
    reason="the base has no such figure.",
    base=None,
    head=None,
    change=None,
    base_values=(),
    head_values=(),
)

VERDICT = Verdict(
    suite="The gate's suite",
    checks=(QUALITY, SKIPPED, MEMORY, LATENCY, SLOWER),
    base=Side("base", "origin/main", "1111111", "3.11.7", {"bench": "/base/bench/__init__.py"}),
    head=Side("head", ".", "2222222+changes", "3.11.7", {"bench": "/head/bench/__init__.py"}),
    started="2026-11-30T12:00:00+00:00",
    seconds=240.0,
    alpha=0.01,
    margin="1%",
    notes=("One core was idle.",),
)


def of(*checks: Check, **changed: object) -> Verdict:
    """A verdict of `checks`."""
    return replace(VERDICT, checks=checks, **changed)


def hostile() -> Verdict:
    """Every text that users or machines write is :data:`HOSTILE`."""
    side = {"label": HOSTILE, "commit": HOSTILE, "python": HOSTILE, "modules": {HOSTILE: HOSTILE}}
    checks = [
        replace(
            check,
            recipe=HOSTILE,
            metric=f"{check.metric} {HOSTILE}",
            title=HOSTILE,
            allowed=HOSTILE,
            reason=HOSTILE,
            grown=(Grown(HOSTILE, 1.0, 2.0),),
        )
        for check in VERDICT.checks
    ]
    return replace(
        VERDICT,
        suite=HOSTILE,
        checks=tuple(checks),
        base=Side("base", **side),
        head=Side("head", **side),
        doubts=(HOSTILE,),
        notes=(HOSTILE,),
    )


def many(number: int = 5_000) -> Verdict:
    """A fifth of the checks are regressions, a fifth cannot be told, the rest are passes or skipped."""
    return of(*(replace(VERDICT.checks[n % 5], recipe=f"recipe-{n}") for n in range(number)))
