"""The documentation names files, modules and classes that exist, and its examples are Python."""

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from tests.test_layering import FLOORS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
# where a path in ARCHITECTURE.md or CONTRIBUTING.md may start
FOLDERS = (ROOT, ROOT / "src" / "opengte", ROOT / "native" / "src")
PATH = re.compile(r"`([\w.*-]+(?:/[\w.*-]*)+|[\w*-]+\.(?:py|md|cpp|hpp|toml|txt|yml))`")
ELSEWHERE = {"src/opengte/arch/ours.py", "config.json"}  # the example of CONTRIBUTING.md

page_names = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def resolve(name: str) -> object:
    """Import the object of a dotted name."""
    module, _, attribute = name.rpartition(".")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return getattr(resolve(module), attribute)


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_the_paths_that_a_page_names_exist(page):
    named = set(PATH.findall((ROOT / page).read_text(encoding="utf-8"))) - ELSEWHERE
    assert len(named) > 5
    assert not [
        path for path in sorted(named) if not any(any(folder.glob(path)) for folder in FOLDERS)
    ]


@page_names
def test_files_of_the_repository_that_the_text_names_exist(page):
    text = page.read_text(encoding="utf-8")
    folders = "src|tests|bench|runs|native|deploy|examples"
    named = set(re.findall(rf"(?<![\w./-])((?:{folders})/[\w./*-]*\w)", text)) - ELSEWHERE
    assert not [path for path in sorted(named) if not any(ROOT.glob(path))]


def test_the_floors_are_those_that_are_enforced():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    drawing = text.partition("Each floor imports")[2].split("\n\n")[1]
    drawn = [set(line.strip().split(" | ")) for line in drawing.splitlines()]
    assert drawn == [set(floor) for floor in FLOORS[""]]


@page_names
def test_examples_are_python_and_import_what_exists(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        if "    ...\n" in block or "=(...)" in block or "Embedding(...)" in block:
            continue  # a sketch
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("opengte"):
                for alias in node.names:
                    resolve(f"{node.module}.{alias.name}")


@page_names
def test_names_of_the_python_reference_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"^::: (\S+)|\]\[(opengte[\w.]*)\]", text, re.MULTILINE):
        resolve("".join(name))


@page_names
def test_dotted_names_in_the_text_exist(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for name in re.findall(r"`(opengte(?:\.\w+)+)", text):
        resolve(name)


def test_the_doctests_of_docstrings_become_code_blocks():
    spec = importlib.util.spec_from_file_location("docstrings", ROOT / "docs" / "docstrings.py")
    assert spec is not None and spec.loader is not None
    pytest.importorskip("griffe")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = "Add.\n\n>>> 1 + 1  # doctest: +SKIP\n2\n\nDone."
    assert module.fenced(text) == "Add.\n\n```pycon\n>>> 1 + 1\n2\n```\n\nDone."
