"""The rooms of `bench` in the order in which data flow: what is imported, wherever and for whatever, is of a room before."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
LAYERS = next(contract for contract in CONTRACTS if contract["type"] == "layers")["layers"]
WITHOUT_TORCH = [room.removeprefix("bench.") for room in CONTRACTS[-1]["source_modules"] if room.startswith("bench.")]
UPWARD = {
    # A hook is typed by what it is given in a stage's process.
    "bench/recipe/method.py": {"tasks", "plan", "stage"},
}


def rooms_of(file: Path) -> set[str]:
    """The rooms that `file` imports from: at its top, inside functions, and for types."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bench."):
            found.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "bench":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("bench.")}
    return found & set(LAYERS)


@pytest.mark.parametrize("room", LAYERS)
def test_a_room_imports_from_those_before_it_alone(room):
    above = set(LAYERS[: LAYERS.index(room)])
    upward = {}
    for file in (ROOT / "bench" / room).rglob("*.py"):
        if wrong := rooms_of(file) & above:
            upward[file.relative_to(ROOT).as_posix()] = wrong
    assert upward == {file: rooms for file, rooms in UPWARD.items() if file.startswith(f"bench/{room}/")}


def test_every_folder_is_a_room():
    folders = {path.name for path in (ROOT / "bench").iterdir() if (path / "__init__.py").exists()}
    assert folders | {"api"} == set(LAYERS)


def test_planning_records_and_reports_import_no_torch_not_even_indirectly():
    files = [file for room in WITHOUT_TORCH for file in (ROOT / "bench" / room).rglob("*.py")]
    files += (ROOT / "reports").rglob("*.py")
    modules = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    if heavy := {'torch', 'transformers', 'peft', 'torchao'} & set(sys.modules): sys.exit(f'{name}: {heavy}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *modules], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
