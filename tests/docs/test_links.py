"""The documents: every file and test that they name is there, every link leads somewhere, and their drawing is the code's."""

import ast
import inspect
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def anchors(page):
    """The names by which the headings of `page` are linked to."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_every_path_is_there(page):
    text = page.read_text(encoding="utf-8")
    paths = set(re.findall(r"(?<![\w/.-])((?:bench|methods|reports|suites|tests|docs)/[\w./-]*[\w/])", text))
    # The page on methods builds the example package, and names its files as that does.
    assert not {path for path in paths if not any((at / path).exists() for at in (ROOT, ROOT / "examples/plugin"))}


@every_page
def test_every_link_within_the_repository_leads_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^\]]+\]: (\S+)$", text, re.M):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@every_page
def test_every_test_that_is_named_is_there(page):
    """``test_x.py::test_y``, and after it ``…::test_y`` of the same file; ``test_y_…`` is the beginning of a name."""
    named = re.findall(r"`([\w/]*test_\w+\.py|…)(?:::([\w:…]+))?`", page.read_text(encoding="utf-8"))
    file = None
    for name, test in named:
        if name != "…":
            (file,) = (path for path in ROOT.glob("tests/**/test_*.py") if path.as_posix().endswith(f"/{name}"))
        wanted = test.split("::")[-1]
        tree = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        there = [node.name for node in tree if isinstance(node, ast.FunctionDef)]
        assert any(each.startswith(wanted[:-1]) if wanted.endswith("…") else wanted in ("", each) for each in there), (
            f"{file.name}::{wanted}"
        )


def test_a_page_of_the_site_links_no_file_outside_of_it():
    outside = {page.name: re.findall(r"\]\((\.\./[^)]*)\)", page.read_text()) for page in (ROOT / "docs").glob("*.md")}
    assert not {name: links for name, links in outside.items() if links}


def test_every_page_is_in_the_site():
    nav = re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} <= set(nav)


def test_the_loop_is_drawn_as_in_its_module():
    module = ast.get_docstring(ast.parse((ROOT / "bench/stage/loop.py").read_text(encoding="utf-8")))
    drawing = inspect.cleandoc(module.partition("::\n")[2].partition("No method")[0])
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    assert page.partition("## The loop")[2].partition("```text\n")[2].partition("```")[0].strip() == drawing.strip()


def test_the_walk_follows_a_recipe_of_the_default_suite_through_every_room():
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    recipe = re.search(r"^([\w-]+) = \"(.*)\"$", page, re.M)
    assert tomllib.loads((ROOT / "suites/encoder.toml").read_text())["recipes"][recipe[1]] == recipe[2]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (rooms,) = (contract["layers"][::-1] for contract in contracts if contract["type"] == "layers")
    rooms.remove("api")  # a file: names of these rooms
    assert re.findall(r"^\| `bench/(\w+)/` \|", page, re.M) == rooms
    assert set(re.findall(r"^\*\*`bench/(\w+)/`\.\*\*", page, re.M)) == set(rooms)


def test_the_hooks_of_git_use_the_tools_of_the_project():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    assert all(hook["entry"].startswith(".venv/bin/") and hook["language"] == "system" for hook in hooks[0]["hooks"])
