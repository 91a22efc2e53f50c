"""The card of an exported model: what it is, how to load it, what was measured of it and how that was proven.

The Hugging Face hub shows it as the model's page, and reads the figures in its head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.metrics.units import counted, show
from reports import toml, words
from reports.markdown import code, fenced, plain, table

if TYPE_CHECKING:
    from bench.execute.export import Exported

_HUB_TASKS = {
    "classification": "text-classification",
    "regression": "text-classification",
    "causal_lm": "text-generation",
    "instruction_tuning": "text-generation",
    "dialogue": "text-generation",
    "masked_lm": "fill-mask",
}
"""What the hub calls a kind of task, where it is no name of ours with hyphens."""


def model_card(exported: Exported) -> str:
    """The card's text: a head of YAML, and Markdown."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    comparison, row = exported.comparison, exported.row
    kind = _HUB_TASKS.get(exported.kind, exported.kind.replace("_", "-"))
    results = [
        EvalResult(
            task_type=kind,
            dataset_type=comparison.task,
            dataset_name=comparison.task,
            metric_type=metric.name,
            metric_name=metric.title,
            metric_value=figure.by_seed[exported.seed],
        )
        for metric in comparison.mains
        if metric.family == "quality" and (figure := row.figures.get(metric.name)) and exported.seed in figure.by_seed
    ]
    head = ModelCardData(
        library_name=exported.loading["library"],
        pipeline_tag=kind,
        base_model=exported.hub or None,
        tags=["methodbench"],
        model_name=row.name if results else None,
        eval_results=results or None,
    )
    body = "\n\n".join(_parts(exported))
    return str(ModelCard(f"---\n{head.to_yaml()}\n---\n\n{body}\n", ignore_metadata_errors=True))


def _parts(exported: Exported) -> Iterator[str]:
    comparison, row, proof = exported.comparison, exported.row, exported.proof
    yield f"# {plain(row.name)}"
    why = " (the first of the suite; none was chosen by its figures)" if exported.first else ""
    yield (
        f"The recipe {code(row.recipe)} on {plain(words.place(comparison))}, seed {exported.seed}{why}, as the suite "
        f"“{plain(comparison.title)}” ran it with methodbench {plain(comparison.version)} on {plain(comparison.started[:10])}."
    )
    yield "## Load it"
    yield from _loading(exported)
    off = "bit for bit" if proof["off"] == 0 else f"to {proof['off']:.1g} of the largest logit"
    yield (
        f"A fresh process, in which nothing of methodbench could be imported, loaded the folder by these lines and answered "
        f"{counted(proof['items'], 'test item')} as the recipe's own model does, {off}; {proof['allowed']:g} is allowed, for "
        "another number of threads or another runtime adds up in another order."
    )
    yield "## What was measured"
    if exported.converted:
        yield (
            f"The figures are of the recipe's model as it ran in torch. That it answers the same in {exported.format} is "
            "proven; what it costs there was not measured."
        )
    yield _figures(exported)
    yield plain(f"{words.seeds(comparison).capitalize()}. {words.HOW_TO_READ}")
    yield "## Data"
    yield plain(words.data(comparison) or f"The task {comparison.task}.")
    yield "\n".join(f"- fingerprint of the {what}: {code(value)}" for what, value in comparison.fingerprints.items())
    yield "## Evidence that each method was applied"
    claims = [[proof.stage, proof.text, f"{proof.held} of {proof.of}", proof.seen] for proof in row.evidence]
    yield table(["stage", "claim", "held in", "seen"], claims)
    if here := words.machine(comparison.environment):
        yield f"Measured on {plain(here)}."
    if suite := toml.written(comparison.suite):
        yield "## The suite"
        yield fenced(suite, "toml")


def _loading(exported: Exported) -> Iterator[str]:
    """The lines that load the folder, as they were run, and what else there is to know."""
    loading = exported.loading
    packages = " ".join(
        [*loading["packages"], *(["transformers"] if "transformers" not in loading["packages"] else [])]
    )
    yield (
        f"```python\n# pip install {packages}\nfolder = {exported.folder.name!r}  # where this card is\n\n{loading['load']}\n\n"
        f"{exported.reading}\noutputs = {loading['ask']}\n```"
    )
    if exported.format == "peft":
        if "/base" in loading["load"]:
            yield (
                "The adapter is for the model in the folder `base` beside it, which is no published one or was changed before "
                "the adapter was put on. The lines above find it wherever the folder is. PEFT's own shortcut, "
                "`AutoPeftModel.from_pretrained`, looks for it in the working directory: use it from inside the folder."
            )
        else:
            yield f"The adapter is for {code(exported.hub)}, which is loaded from the hub."
    if exported.vllm:
        yield f"For vLLM, with this folder's path for FOLDER (methodbench has not run this):\n\n```console\n$ {exported.vllm}\n```"
    elif exported.kind in ("causal_lm", "instruction_tuning", "dialogue"):
        yield "vLLM does not take it in this form: it loads whole decoders of transformers, and PEFT's LoRA adapters of them."


def _figures(exported: Exported) -> str:
    comparison, row = exported.comparison, exported.row
    lines = []
    for metric in comparison.mains:
        if (figure := row.figures.get(metric.name)) is None:
            continue
        change = row.changes.get(metric.name)
        beside = f"{words.spelled(change)}, {words.verdict(change)}" if change else "it is the baseline"
        mine = show(figure.by_seed[exported.seed], metric.unit) if exported.seed in figure.by_seed else "–"
        lines.append([metric.title, mine, str(figure), beside if change or row.is_baseline else "–"])
    return table(["", f"seed {exported.seed}, this model", "all seeds", f"beside {comparison.baseline}"], lines)
