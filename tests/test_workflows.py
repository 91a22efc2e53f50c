"""The action and the workflows: what they name exists, and the action's steps do what they say, in a real shell."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
WORKFLOWS = {file.name: yaml.safe_load(file.read_text()) for file in sorted((ROOT / ".github/workflows").glob("*.yml"))}
STEPS = {step.get("id") or step.get("name") or step["uses"]: step for step in ACTION["runs"]["steps"]}

posix = pytest.mark.skipif(sys.platform == "win32", reason="the steps are written for bash")


def used(text, context):
    return set(re.findall(rf"\b{context}\.([\w-]+)", text))


def expressions(value):
    """All that stands in ``${{ }}`` or in an ``if:`` anywhere in `value`."""
    if isinstance(value, dict):
        conditions = [value["if"]] if isinstance(value.get("if"), str) else []
        return " ".join([*conditions, *map(expressions, value.values())])
    if isinstance(value, list):
        return " ".join(map(expressions, value))
    return " ".join(re.findall(r"\$\{\{(.*?)\}\}", value)) if isinstance(value, str) else ""


def test_the_action_uses_all_its_inputs_and_no_others():
    assert used(expressions(ACTION["runs"]) + expressions(ACTION["outputs"]), "inputs") == set(ACTION["inputs"])
    for name, entry in ACTION["inputs"].items():
        assert entry["description"], name
        assert entry.get("required") or isinstance(entry["default"], str), name


def test_the_outputs_are_written_by_a_step():
    for output in ACTION["outputs"].values():
        for step, name in re.findall(r"steps\.(\w+)\.outputs\.(\w+)", output["value"]):
            assert f'echo "{name}=' in STEPS[step]["run"]


def test_the_action_says_that_it_needs_the_history():
    assert "fetch-depth: 0" in ACTION["description"]


@pytest.mark.parametrize("steps", [ACTION["runs"]["steps"], *(
    job["steps"] for workflow in WORKFLOWS.values() for job in workflow["jobs"].values()
)])  # fmt: skip
def test_no_script_has_an_expression_in_it(steps):
    """What users write reaches a script through its environment, where it is no code."""
    scripts = [step["run"] for step in steps if "run" in step]
    assert not [script for script in scripts if re.search(r"\$\{\{ *(inputs|github\.event|steps)", script)]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_may_only_read_unless_a_job_says_otherwise(name):
    permissions = WORKFLOWS[name]["permissions"]
    assert permissions.pop("contents") == "read"
    assert permissions == ({"pull-requests": "write"} if name == "gate.yml" else {})


def test_the_workflow_gives_the_action_inputs_that_it_has_and_reads_outputs_that_it_has():
    job = WORKFLOWS["gate.yml"]["jobs"]["gate"]
    checkout, gate, comment = job["steps"]
    assert checkout["with"]["fetch-depth"] == 0
    assert gate["uses"] == "./"
    required = {name for name, entry in ACTION["inputs"].items() if entry.get("required")}
    assert required <= set(gate["with"]) <= set(ACTION["inputs"])
    assert set(re.findall(r"steps\.gate\.outputs\.(\w+)", expressions(comment))) <= set(ACTION["outputs"])


def test_a_report_is_published_from_a_runner_with_a_gpu():
    workflow = WORKFLOWS["gpu.yml"]
    assert workflow["jobs"]["bench"]["runs-on"] == ["self-hosted", "gpu"]
    assert set(workflow[True]) == {"schedule", "workflow_dispatch"}  # YAML 1.1 reads `on` as true
    assert workflow["jobs"]["publish"]["permissions"] == {"pages": "write", "id-token": "write"}


def run(step, folder, **environment):
    """A step's script as a runner has it: bash, which stops at the first error."""
    script = folder / "script.sh"
    script.write_text(step["run"])
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
        cwd=folder,
        env={"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def command(folder, name, script):
    (folder / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
    (folder / name).chmod(0o755)


GATE = {"SUITE": "my suites/gate.toml", "BASE": "v1", "HEAD": ".", "FOLDER": "out", "ARGS": "--max-pairs 8  --quiet"}


@posix
@pytest.mark.parametrize(
    ("status", "outcome"), [(0, "pass"), (1, "regression"), (2, "error"), (3, "inconclusive"), (130, "error")]
)
def test_the_gate_step_keeps_the_status_and_names_the_outcome(status, outcome, tmp_path):
    command(tmp_path, "methodbench", f'printf "%s\\n" "$@" > called; exit {status}')
    done = run(STEPS["gate"], tmp_path, **GATE, GITHUB_OUTPUT=str(tmp_path / "outputs"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs").read_text().splitlines() == [f"status={status}", f"outcome={outcome}"]
    assert (tmp_path / "called").read_text().splitlines() == [
        *("gate", "my suites/gate.toml", "--base", "v1", "--head", ".", "--out", "out", "--max-pairs", "8", "--quiet")
    ]


@posix
def test_without_a_base_it_is_wrong_use(tmp_path):
    command(tmp_path, "methodbench", "exit 0")
    done = run(STEPS["gate"], tmp_path, **{**GATE, "BASE": ""}, GITHUB_OUTPUT=str(tmp_path / "outputs"))
    assert done.stdout.startswith("::error title=methodbench::")
    assert "status=2" in (tmp_path / "outputs").read_text()


@posix
@pytest.mark.parametrize(
    ("status", "inconclusive", "ends"), [(0, "fail", 0), (1, "warn", 1), (2, "warn", 2), (3, "warn", 0), (3, "fail", 3)]
)
def test_the_status_passes_through(status, inconclusive, ends, tmp_path):
    done = run(STEPS["Verdict"], tmp_path, STATUS=str(status), INCONCLUSIVE=inconclusive)
    assert done.returncode == ends


@posix
@pytest.mark.parametrize("existing", ["", "41"])
def test_a_comment_is_made_once_and_then_edited(existing, tmp_path):
    step = WORKFLOWS["gate.yml"]["jobs"]["gate"]["steps"][-1]
    (tmp_path / "gate.md").write_text("## Pass\n")
    command(tmp_path, "gh", f'echo "$@" >> calls; case "$*" in *--paginate*) printf "{existing}" ;; esac')
    marker = step["env"]["MARKER"]
    done = run(step, tmp_path, GITHUB_REPOSITORY="me/mine", NUMBER="7", FOLDER=".", MARKER=marker)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "comment.md").read_text() == f"{marker}\n## Pass\n"
    last = (tmp_path / "calls").read_text().splitlines()[-1]
    edits = "api --silent --method PATCH repos/me/mine/issues/comments/41 -F body=@comment.md"
    assert last == (edits if existing else "pr comment 7 --body-file comment.md")
