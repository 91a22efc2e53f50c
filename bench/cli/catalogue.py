"""What there is: the entries of ``methodbench list`` and the pages of ``methodbench show``."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from bench.metrics.registry import metric, metrics
from bench.models.registry import models
from bench.recipe import registry
from bench.recipe.errors import RecipeError, nearest
from bench.recipe.fields import schema
from bench.recipe.method import Method
from bench.recipe.recipe import parse
from bench.tasks import files
from bench.tasks.registry import kinds, tasks

DECLARED = ("requires", "refuses", "refuses_beside")
"""What a method declares of the model that arrives and of the methods in its stage."""


def entries(what: str) -> list[dict[str, Any]]:
    """The methods, tasks, kinds of task, models, metrics or suites, each with at least ``name``, ``kind`` and ``summary``."""
    if what == "methods":
        rows = [
            {"name": cls.name, "kind": cls.kind, "summary": _summary(cls), "paper": cls.paper, "example": cls.example}
            for cls in registry.methods().values()
        ]
        return sorted(rows, key=lambda row: (["trainer", "modifier", "transform"].index(row["kind"]), row["name"]))
    if what == "suites":
        from bench.suite.suite import shipped

        return [
            {"name": name, "kind": "suite", "summary": _title(path), "path": str(path)}
            for name, path in shipped().items()
        ]
    if what == "metrics":
        return [{"name": name, "kind": each.family, "summary": each.formula} for name, each in metrics().items()]
    if what == "kinds":
        return [
            {"name": name, "kind": "kind of task", "summary": f"learns {kind.learns}"} for name, kind in kinds().items()
        ]
    found = tasks() if what == "tasks" else models()
    rows = [{"name": cls.name, "kind": cls.kind, "summary": cls.summary or _summary(cls)} for cls in found.values()]
    return rows + (_task_files() if what == "tasks" else [])


def _task_files() -> list[dict[str, Any]]:
    found = [(name, path, files.read(path)) for name, path in files.shipped().items()]
    return [
        {"name": name, "kind": table["task"]["kind"], "summary": table.get("summary", ""), "path": str(path)}
        for name, path, table in found
    ]


def page(name: str) -> dict[str, Any]:
    """All there is to say of a method, task, model or metric.

    Raises:
        RecipeError: nothing is called `name`.
    """
    if cls := registry.methods().get(name):
        return {
            "name": name,
            "kind": cls.kind,
            "about": inspect.getdoc(cls) or "",
            "arguments": schema(cls),
            "evidence": (inspect.getdoc(cls.evidence) or "").splitlines()[0],
            "needs": list(cls.needs),
            **_declared(cls),
            "breaks_with": [str(broken) for broken in cls.breaks_with],
            "paper": cls.paper,
            "example": cls.example,
            "source": _source(cls),
        }
    others: dict[str, Any] = {**tasks(), **models()}
    if other := others.get(name):
        row = {"name": name, "kind": other.kind, "about": inspect.getdoc(other) or "", "source": _source(other)}
        return {**row, **({"caveat": other.caveat} if getattr(other, "caveat", "") else {})}
    if file := files.shipped().get(name):
        table = files.read(file)
        about = f"{table.get('summary', '')}\n\nA suite may have this as its own [task], or copy it:\n\n{file.read_text(encoding='utf-8')}"
        return {"name": name, "kind": table["task"]["kind"], "about": about, "source": str(file)}
    try:
        found = metric(name)
    except KeyError:
        known = [*registry.methods(), *others, *files.shipped(), *metrics()]
        raise RecipeError(f"nothing is called `{name}`{nearest(name, known)}") from None
    about = f"{found.title}, in {found.unit}; {found.better} is better.\n\n{found.formula}"
    return {"name": name, "kind": f"metric of {found.family}", "about": about}


def text(page: dict[str, Any]) -> str:
    """A page for the terminal."""
    lines = [f"{page['name']}  ({page['kind']})", "", page["about"]]
    if page.get("arguments"):
        lines += ["", "Arguments"]
        width = max(len(row["name"]) for row in page["arguments"])
        for row in page["arguments"]:
            default = f", default {row['default']!r}" if "default" in row else ", must be given"
            lines.append(f"  {row['name']:<{width}}  {row['type']}{default}")
    for key in ("caveat", "evidence", "needs", *DECLARED, "breaks_with", "paper", "example", "source"):
        if page.get(key):
            value = ", ".join(page[key]) if isinstance(page[key], list) else page[key]
            lines += ["", key.capitalize().replace("_", " "), f"  {value}"]
    return "\n".join(lines)


def _declared(cls: type[Method]) -> dict[str, list[str]]:
    """The facts and traits, as they are in the method's example; arguments may decide them."""
    stages = parse(cls.example).stages
    method = next(each for stage in stages for each in stage.methods if isinstance(each, cls))
    return {key: list(dict.fromkeys(name for name, _ in getattr(method, key))) for key in DECLARED}


def _summary(cls: type) -> str:
    return (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")


def _title(path: Path) -> str:
    from bench.suite.suite import SuiteError, load

    try:
        return load(path).title
    except SuiteError as error:
        return f"cannot be read: {error}"


def _source(cls: type[Method] | type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
