"""The plan: a tree of stages. Recipes of a suite that begin alike share the work of their common stages.

Each node is one stage for one model, task and seed; each cell is one recipe, and ends at one node.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.machine import machine as machines
from bench.machine.machine import Machine
from bench.metrics.registry import unregistered
from bench.models import structure
from bench.models.base import Model, ModelError
from bench.models.registry import open_model
from bench.models.structure import Structure
from bench.plan import dividing
from bench.plan.context import PlanContext
from bench.plan.refusals import problems
from bench.recipe.facts import facts_after, stages_before_compression, with_inner
from bench.recipe.method import Method, Trainer
from bench.recipe.recipe import Recipe, Stage
from bench.suite.suite import NEW_TOKENS, Budget, Measure, Suite, SuiteError
from bench.tasks import lm_eval
from bench.tasks.base import Task, TaskError
from bench.tasks.registry import open_task
from bench.tasks.table import DataTable

MANY = 10**6
"""As many items as planning takes training to have where it cannot tell, so that no steps seem too few."""

IDENTITY = 2
"""Counts up when the engine changes what an equal node would measure, so that old records are not taken for new."""


@dataclass(frozen=True)
class Subject:
    """One model on one task, with what planning needs to know of them."""

    model: Model
    task: Task
    model_spec: str
    task_spec: str | DataTable
    model_fingerprint: str
    task_fingerprint: str
    suite_folder: Path = Path()
    retained_fingerprint: str = ""
    """Of the task that is not to be forgotten, where a suite names one."""

    @functools.cached_property
    def structure(self) -> Structure:
        """What is known of the model with the task's head."""
        return structure.of(self.model, self.model_spec, self.suite_folder, *self.task.model_options())


@dataclass(frozen=True)
class Node:
    """One stage of the tree: the last of ``recipe``, on the result of ``parent``.

    ``uncompressed`` is the node that left the uncompressed model, which this one's is measured beside; None where nothing
    was compressed, or the model that the recipe began with is the uncompressed one. ``single_process`` is what this stage's node
    would be in one process; None where it is that.
    """

    id: str
    parent: str | None
    subject: Subject
    recipe: Recipe
    seed: int
    uncompressed: str | None = None
    single_process: str | None = None

    @property
    def stage(self) -> Stage:
        """The stage that this node runs."""
        return self.recipe.stages[-1]

    @property
    def processes(self) -> int:
        """How many processes it takes."""
        return self.stage.processes

    @property
    def gpus(self) -> int:
        """How many GPUs it takes for itself, where there are GPUs."""
        return self.stage.gpus

    @property
    def depth(self) -> int:
        """How many stages come before."""
        return len(self.recipe.stages) - 1

    @property
    def stands_on(self) -> set[str]:
        """The nodes whose models it needs."""
        return {node for node in (self.parent, self.uncompressed) if node is not None}


@dataclass(frozen=True)
class Cell:
    """One recipe, model, task and seed: the nodes it goes through, or why it was refused."""

    name: str
    recipe: Recipe
    subject: Subject
    seed: int
    path: tuple[Node, ...]
    refused: tuple[str, ...] = ()

    @property
    def trainings(self) -> list[Node]:
        """The nodes that train."""
        return [node for node in self.path if isinstance(node.stage.main, Trainer)]


Key = tuple[str, str, str]
"""Model, task and recipe, by their names."""


def key_of(cell: Cell) -> Key:
    """What a cell's seeds have in common."""
    return cell.subject.model.name, cell.subject.task.name, cell.name


def pairing(of: Node | Cell) -> tuple[str, str, int]:
    """What two have in common that are compared: model, task and seed."""
    return of.subject.model.name, of.subject.task.name, of.seed


@dataclass(frozen=True)
class Note:
    """What a reader should know of a model on a task."""

    model: str
    task: str
    text: str


@dataclass(frozen=True)
class Plan:
    """What a suite would run. ``nodes`` come parents first and depth first, so that checkpoints are short-lived."""

    suite: Suite
    suite_folder: Path
    machine: Machine
    cells: tuple[Cell, ...]
    nodes: dict[str, Node] = field(repr=False)

    def notes(self, names: Iterable[str]) -> list[Note]:
        """What a reader should know of the models, and of the recipes called `names` with them."""
        wanted = set(names)
        found: dict[Note, None] = {}
        for cell in self.cells:
            if cell.refused or cell.name not in wanted:
                continue
            model, task, structure = cell.subject.model.name, cell.subject.task.name, cell.subject.structure
            for text in (*cell.subject.model.notes(), *structure.notes, *cell.subject.task.model_notes(structure)):
                found[Note(model, task, f"{model}: {text}")] = None
            if (
                structure.head == "new"
                and not cell.recipe.trains
                and self.suite.measure.quality
                and cell.subject.model.pretrained
            ):
                text = f"`{cell.name}` trains nothing and the head is new, so its quality is that of a random head"
                found[Note(model, task, text)] = None
        return list(found)

    def select(self, names: Iterable[str]) -> Plan:
        """The plan with the stages of the recipes called `names` alone."""
        wanted = set(names)
        needed = {node.id for cell in self.cells if cell.name in wanted and not cell.refused for node in cell.path}
        return replace(self, nodes={id_: node for id_, node in self.nodes.items() if id_ in needed})

    def of(self, asked: Callable[[Cell], bool]) -> Plan:
        """The plan with the cells that are `asked` for alone."""
        kept = replace(self, cells=tuple(cell for cell in self.cells if asked(cell)))
        return kept.select({cell.name for cell in kept.cells})


def make(
    suite: Suite,
    suite_folder: Path,
    machine: Machine,
    shortage: dividing.Shortage = dividing.shortage,
    seeds: Sequence[int] = (),
) -> Plan:
    """Expand `suite`, with `seeds` where there are any instead of its own; paths in it are relative to `suite_folder`. There
    is room for stages as `shortage` says.

    Raises:
        SuiteError: a model or a task cannot be used.
    """
    recipes = suite.parsed()
    subjects = [_subject(model, task, suite_folder, suite) for model in suite.models for task in suite.tasks]
    if names := lm_eval.names_in(suite.measure.quality):
        _check_lm_eval(names, subjects, suite_folder)
    for (model, task), number in Counter((subject.model.name, subject.task.name) for subject in subjects).items():
        if number > 1:
            raise SuiteError(
                f"the model {model} on the task {task} is there {number} times, and results go by these names; name each "
                "once, a table by `name` in its [task], a model by its folder"
            )
    _check_validation(suite, subjects)
    cells: list[Cell] = []
    nodes: dict[str, Node] = {}
    for subject in subjects:
        refused = {name: refusals(recipe, subject, suite, machine, shortage) for name, recipe in recipes.items()}
        for seed in seeds or suite.seeds:
            for name, recipe in recipes.items():
                path = _path(recipe, subject, seed, suite, machine)
                cells.append(Cell(name, recipe, subject, seed, path, refused[name]))
                if not refused[name]:
                    nodes.update((node.id, node) for node in path)
    return Plan(suite, suite_folder, machine, tuple(cells), _depth_first(nodes))


def of_cells(whole: Plan, suite: Suite, cells: Iterable[Cell]) -> Plan:
    """A plan of `cells` of `whole` whose recipes have changed, with the stages that they now go through under `suite`."""
    changed = [replace(cell, path=_path(cell.recipe, cell.subject, cell.seed, suite, whole.machine)) for cell in cells]
    nodes = {node.id: node for cell in changed if not cell.refused for node in cell.path}
    return replace(whole, suite=suite, cells=tuple(changed), nodes=_depth_first(nodes))


def refusals(
    recipe: Recipe, subject: Subject, suite: Suite, machine: Machine, shortage: dividing.Shortage = dividing.shortage
) -> tuple[str, ...]:
    """Why `recipe` cannot run here, each beginning with the method's name; empty where it can."""
    if problem := subject.task.model_problem(subject.model.model_type(), subject.structure):
        return (f"{subject.task.name}: {problem}",)
    if subject.structure.problems:
        return subject.structure.problems
    reasons = [*_too_long(recipe, subject, suite), *_too_large(recipe, subject, suite, machine)]
    items = subject.task.training_items()
    for depth, stage in enumerate(recipe.stages):
        context = PlanContext(
            before=recipe.stages[:depth],
            stage=stage,
            machine=machine,
            task=type(subject.task),
            model=subject.model.model_type(),
            config={**subject.model.config(), **subject.structure.config},
            structure=subject.structure,
            max_length=suite.budget.max_length,
            suite_folder=subject.suite_folder,
            given=subject.model,
            splits=subject.task.splits(),
            items=items,
            packing=subject.task.packing,
            batch_size=suite.budget.batch_size,
            steps=suite.budget.optimizer_steps(MANY if items is None else items),
        )
        for method in stage.methods:
            # Of a dotted name, only the first part: looking for the rest would import it.
            tops = {package.partition(".")[0] for package in needs(method)}
            missing = sorted(package for package in tops if importlib.util.find_spec(package) is None)
            reasons += [
                f"{method.name}: needs the package {name}: pip install {name}" for name in map(_distribution, missing)
            ]
            reasons += [
                f"{method.name}: {broken}"
                for each in with_inner(method)
                for broken in each.breaks_with
                if (broken.tasks is None or context.task.kind in broken.tasks)
                and machines.satisfies(machine, broken.versions)
            ]
            reasons += [f"{method.name}: {problem}" for problem in unregistered(method.figures)]
            reasons += [f"{method.name}: {problem}" for problem in problems(method, context)]
        reasons += dividing.problems(context, shortage)
        reasons += _validation(stage, suite.budget)
    return tuple(reasons)


def _validation(stage: Stage, budget: Budget) -> Iterator[str]:
    """Why `stage` cannot be scored while it trains, or go back to its best weights."""
    if budget.eval_steps is None or not isinstance(stage.main, Trainer):
        return
    if others := stage.layout.keys() - {"replicas"}:
        yield (
            f"budget.eval_steps: no process of `{stage}` has the whole model, which is divided by {', '.join(sorted(others))}; "
            "leave eval_steps out"
        )
    for method in stage.methods if budget.load_best_model_at_end else ():
        if "stops_early" in method.traits:
            yield f"budget.load_best_model_at_end: {method.name} goes back to its own best weights; leave one of the two out"
        # Going back to the best weights is what such a method does, too.
        for trait, text in method.refuses_beside:
            if trait == "stops_early":
                yield f"budget.load_best_model_at_end: {text.format(other='it', method=method, name=method.name)}"


def _too_long(recipe: Recipe, subject: Subject, suite: Suite) -> Iterable[str]:
    """Why the suite's items do not fit the positions that the model has, beside the tokens that a method puts before them."""
    if subject.task.reads_images and suite.measure.latency:
        yield f"measure.latency: it is measured for lengths in tokens, and {subject.task.name} has images; give latency = []"
    positions = subject.structure.positions
    if positions is None:
        return
    before = max((method.virtual_tokens for stage in recipe.stages for method in stage.methods), default=0)
    room = positions - before
    beside = f" and {before} virtual ones" if before else ""
    has = f"{subject.model.name} has {positions} positions"
    if suite.budget.max_length > room:
        yield f"budget.max_length: {has}, and items may have {suite.budget.max_length} tokens{beside}; lower it to {room}"
    if 0 < room - suite.budget.max_length < subject.task.written_tokens:
        yield (
            f"task.max_new_tokens: {has}, and {subject.task.written_tokens} are written after items of {suite.budget.max_length} "
            f"tokens{beside}; lower one of the two to {room} in all"
        )
    new = NEW_TOKENS if subject.task.generates else 0
    for batch, length in suite.measure.latency:
        if length + new > room:
            more = f"{' and ' + str(new) + ' new ones' if new else ''}{beside}"
            yield f"measure.latency: {has}, and [{batch}, {length}] asks for {length} tokens{more}; lower it to {room - new}"


def _too_large(recipe: Recipe, subject: Subject, suite: Suite, machine: Machine) -> Iterable[str]:
    """Why inputs do not fit the memory, whatever else does: what goes into a block and what comes out are there at once."""
    memory = machine.gpu_memory if machine.device == "cuda" else machine.memory
    width = subject.structure.config.get("hidden_size")
    facts = facts_after(recipe.stages, subject.model.facts())
    if not memory or not isinstance(width, int) or "reshaped" in facts:
        return
    bytes_each = 2 if facts & {"half", "exported"} else 4
    for batch, length in suite.measure.latency:
        needed = 2 * batch * length * width * bytes_each
        if needed > memory:
            yield (
                f"measure.latency: [{batch}, {length}] takes more than {needed / 1e9:,.0f} GB for what a single block is given and "
                f"gives, and {'the GPU' if machine.device == 'cuda' else 'this machine'} has {memory / 1e9:,.0f}; lower it to "
                f"[{max(1, batch * memory // (8 * needed))}, {length}] or less"
            )


def needs(method: Method) -> list[str]:
    """Packages that `method`, and the methods in its arguments, import."""
    return list(dict.fromkeys(package for each in with_inner(method) for package in each.needs))


def _subject(model_spec: str, task_spec: str | DataTable, suite_folder: Path, suite: Suite) -> Subject:
    try:
        model = open_model(model_spec, suite_folder, allow_remote_code=suite.allow_remote_code)
        task = open_task(task_spec, suite_folder)
    except (ModelError, TaskError) as error:
        raise SuiteError(str(error)) from None
    unusable = [f"model {model.name}: {text}" for text in model.problems()]
    unusable += [f"task {task.name}: {text}" for text in (*task.problems(), *unregistered(task.metrics))]
    if unusable:
        raise SuiteError("\n".join(unusable))
    retain = suite.measure.retain
    retained = _retained(retain, task, suite_folder).fingerprint() if retain is not None else ""
    pinned = model.pinned(model_spec)
    return Subject(model, task, pinned, task_spec, model.fingerprint(), task.fingerprint(), suite_folder, retained)


def _retained(spec: str | DataTable, task: Task, suite_folder: Path) -> Task:
    """The task that forgetting is measured on: one that the model can do as it arrives, and after learning `task`."""
    try:
        retained = open_task(spec, suite_folder)
    except TaskError as error:
        raise SuiteError(f"measure.retain: {error}") from None
    for each in (retained, task):
        if each.new_head:
            raise SuiteError(
                f"measure.retain: {each.name} is a {each.kind} task, whose head is new and has nothing to forget; "
                "task and retain must both keep a pretrained head, as stdlib-code does, or leave retain out"
            )
    for problem in retained.problems():
        raise SuiteError(f"measure.retain: {problem}")
    return retained


def _check_lm_eval(names: Sequence[str], subjects: Sequence[Subject], suite_folder: Path) -> None:
    """That lm-eval is there, knows its tasks called `names`, and gets models that write.

    Raises:
        SuiteError: it is not so.
    """
    problems = [f"measure.quality: {problem}" for problem in lm_eval.problems(names, suite_folder)]
    problems += [
        f"measure.quality: lm-eval scores models that write, and one for {task.name}, a {task.kind} task, does not; give true "
        "here, or a task such as stdlib-code"
        for task in {subject.task.name: subject.task for subject in subjects}.values()
        if not task.generates
    ]
    if problems:
        raise SuiteError("\n".join(problems))


def _check_validation(suite: Suite, subjects: Sequence[Subject]) -> None:
    """That there is what `suite` scores on the validation split.

    Raises:
        SuiteError: it is not so.
    """
    asked = {
        "tune": suite.tune is not None,
        "budget.eval_steps": suite.budget.eval_steps is not None,
        "measure.split": suite.measure.split == "validation",
    }
    key = next((key for key, is_asked in asked.items() if is_asked), None)
    for subject in subjects if key else ():
        if key == "tune" and not subject.model.pretrained:
            raise SuiteError(
                f"{key}: {subject.model.name} has random weights, whose quality is not measured; leave it out"
            )
        if "validation" not in subject.task.splits():
            raise SuiteError(
                f"{key}: {subject.task.name} has no validation items to score; add items, or a file of them as `validation`, or "
                "leave it out"
            )


def _path(recipe: Recipe, subject: Subject, seed: int, suite: Suite, machine: Machine) -> tuple[Node, ...]:
    path: list[Node] = []
    for depth in range(len(recipe.stages)):
        prefix = Recipe(recipe.stages[: depth + 1])
        node_id = _identity(prefix, subject, seed, suite, machine)
        uncompressed = path[whole - 1].id if (whole := stages_before_compression(prefix.stages)) else None
        single_process = (
            _identity(prefix.single_process, subject, seed, suite, machine) if prefix.stages[-1].layout else None
        )
        path.append(Node(node_id, path[-1].id if path else None, subject, prefix, seed, uncompressed, single_process))
    return tuple(path)


def _identity(prefix: Recipe, subject: Subject, seed: int, suite: Suite, machine: Machine) -> str:
    packages = {_distribution(name) for stage in prefix.stages for method in stage.methods for name in needs(method)}
    others = {
        key: value
        for stage in prefix.stages
        for method in stage.methods
        for key, value in method.reads(subject.suite_folder).items()
    }
    what: dict[str, Any] = {
        "identity": IDENTITY,
        "recipe": prefix.spell(defaults=True),
        "model": subject.model_fingerprint,
        "task": subject.task_fingerprint,
        "seed": seed,
        "budget": _asked(suite.budget),
        "measure": _asked(suite.measure, exclude={"retain", "references", "turns", "keep"}),
        "machine": _machine(machine, packages),
    }
    if others:
        what["others"] = others
    if names := lm_eval.names_in(suite.measure.quality):
        what["lm_eval"] = lm_eval.fingerprint(names, subject.suite_folder)
    if subject.retained_fingerprint:
        what["retained"] = subject.retained_fingerprint
    return _hash(what)


_LATER = {"epochs", "eval_steps", "load_best_model_at_end", "split"}
"""Keys that are younger than records: where they say nothing new they are left out, so that these records still count."""


def _asked(table: Budget | Measure, exclude: Collection[str] = ()) -> dict[str, Any]:
    """What a `table` of the suite says that results depend on."""
    unsaid = {
        name
        for name in _LATER & set(type(table).model_fields)
        if getattr(table, name) == type(table).model_fields[name].default
    }
    return table.model_dump(exclude={*exclude, *unsaid})


def references(plan: Plan) -> dict[str, Node]:
    """What is scored untrained, by id: for each model, task and seed of the suite a node that begins with it.

    Where no weight is new, it is the same for each seed, and one is enough.
    """
    suite = plan.suite
    if not (suite.measure.quality and suite.measure.references):
        return {}
    found: dict[str, Node] = {}
    for node in plan.nodes.values():
        subject = node.subject
        seeds = suite.seeds if subject.structure.head == "new" else suite.seeds[:1]
        if node.parent is None and node.seed in seeds and subject.model.pretrained:
            what = {
                "identity": IDENTITY,
                "model": subject.model_fingerprint,
                "task": subject.task_fingerprint,
                "seed": node.seed,
                "budget": suite.budget.model_dump(include={"max_length", "eval_batch_size"}),
                **({} if suite.measure.split == "test" else {"split": suite.measure.split}),
                "machine": _machine(plan.machine),
            }
            found.setdefault(_hash(what), node)
    return found


def _machine(machine: Machine, packages: Iterable[str] = ()) -> dict[str, Any]:
    """What of `machine` results depend on, with the versions of `packages` and of those that all stages use."""
    here, used = machines.identity(machine), {*_USED, *packages}
    return {**here, "versions": {name: version for name, version in here["versions"] if name in used}}


_USED = ("methodbench", "torch", "transformers", "tokenizers", "safetensors")


def _hash(what: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def _distribution(package: str) -> str:
    return package.partition(".")[0].replace("_", "-")


def _depth_first(nodes: dict[str, Node]) -> dict[str, Node]:
    below: dict[str | None, list[Node]] = {}
    for node in nodes.values():
        below.setdefault(node.parent, []).append(node)
    ordered: dict[str, Node] = {}
    waiting = below.get(None, [])[::-1]
    while waiting:
        node = waiting.pop()
        ordered[node.id] = node
        waiting += below.get(node.id, [])[::-1]
    return ordered


def to_run(plan: Plan, recorded: Sequence[str] | set[str], checkpoints: set[str]) -> dict[str, str]:
    """Which nodes must run, and why: ``"new"``, or ``"again"`` for one whose result a new branch needs back.

    `recorded` are the nodes with an ``ok`` record, `checkpoints` those whose model is still there.
    """
    done = set(recorded)
    why = {node.id: "new" for node in plan.nodes.values() if node.id not in done}
    for node in reversed(plan.nodes.values()):
        if node.id in why:
            why.update((other, "again") for other in node.stands_on if other not in why and other not in checkpoints)
    return {node: why[node] for node in plan.nodes if node in why}
