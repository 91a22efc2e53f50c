"""Jobs on tiny models, run in the test's own process."""

from pathlib import Path
from typing import Any

from bench import machine, recipe
from bench.execute.base import Job
from bench.execute.worker import attempt
from bench.suite import Budget, DataTable, Measure

WORDS = {
    "fruit": "apple pear plum cherry melon grape",
    "metal": "iron zinc copper silver lead tin",
    "river": "rhine danube nile amazon volga thames",
}


def table(folder: Path, rows: int = 120) -> DataTable:
    """A data set that a tiny model can learn: `rows` short texts of three kinds."""
    file = folder / "data.csv"
    if not file.exists():
        lines = ["text,label"]
        for number in range(rows):
            label = list(WORDS)[number % 3]
            words = WORDS[label].split()
            text = " ".join(words[(number * step + number // 3) % 6] for step in (1, 2, 3)[: 1 + number % 4])
            lines.append(f"{text} {number},{label}")
        file.write_text("\n".join(lines))
    return DataTable(kind="classification", data=str(file))


def job(text: str, model: Path, folder: Path, *, depth: int | None = None, seed: int = 0, **keys: Any) -> Job:
    """The job of one stage of a recipe, the last by default."""
    stages = recipe.parse(text).stages
    depth = len(stages) - 1 if depth is None else depth
    prefix = recipe.Recipe(stages[: depth + 1])
    budget = {"steps": 6, "batch_size": 8, "max_length": 32, "warmup_steps": 2} | keys.pop("budget", {})
    measure = {"latency": [(1, 8)], "latency_samples": 3} | keys.pop("measure", {})
    (folder / "checkpoints").mkdir(mode=0o700, exist_ok=True)
    return Job(
        what="stage",
        node=f"node{depth}",
        recipe=prefix.spell(defaults=True),
        model=str(model),
        task=keys.pop("task", None) or table(folder),
        base=folder,
        seed=seed,
        budget=Budget(**budget),
        measure=Measure(**measure),
        machine=machine.look("cpu", 2),
        input=folder / "checkpoints" / f"node{depth - 1}.pt" if depth else None,
        output=folder / "checkpoints" / f"node{depth}.pt",
        log=folder / "log.txt",
    )


def run(text: str, model: Path, folder: Path, **keys: Any) -> tuple[str, str, list[dict[str, Any]]]:
    """Run every stage of a recipe; the last status and reason, and what each stage measured."""
    records: list[dict[str, Any]] = []
    status, reason = "ok", ""
    for depth in range(len(recipe.parse(text).stages)):
        status, reason, measured = attempt(
            job(text, model, folder, depth=depth, **dict(keys)), lambda what, done, of: None
        )
        records.append(measured)
        if status != "ok":
            break
    return status, reason, records
