"""Every example in a docstring of the package runs, without a network.

An example starts in an empty folder with these beside it, so that it can be read as a user's code:

- `minilm/` and `BAAI/bge-reranker-base/`: tiny models with random weights, so that
  `Encoder.load("minilm")` loads the folder. Vectors have 384 dimensions as the real ones have, and
  texts that share words are similar; nothing else about them means anything.
- `notes/`: three documents, `cats.md`, `git.md` and `leave.md`.

Its names are those of its module, and `np`, `Encoder`, `Reranker`, `KnowledgeBase`, `encoder`,
`reranker`, `late` (all loaded), `folder` (the path of the encoder's checkpoint) and `kb` (an index
of `notes`, of its own for each example).
"""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from opengte import Encoder, KnowledgeBase, LateInteraction, Reranker

SOURCE = Path(__file__).parents[1] / "src"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
NOTES = {
    "cats.md": "# Cats\n\nCats eat meat. A kitten is a young cat and sleeps all day.\n",
    "git.md": "# Git\n\nUndo a commit with git reset. Keep the changes with the option soft.\n",
    "leave.md": "# Parental leave\n\nParental leave lasts for twelve months after the birth.\n",
}


class Docstring(NamedTuple):
    """One docstring that has examples."""

    path: Path
    name: str  # qualified, without the module; empty for the module itself
    text: str
    line: int

    @property
    def module(self) -> str:
        parts = self.path.relative_to(SOURCE).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def docstrings(path: Path) -> Iterator[Docstring]:
    """Yield the docstrings with examples of one file, without importing it."""
    source = path.read_text(encoding="utf-8")
    if ">>>" not in source:
        return
    pending: list[tuple[str, ast.AST]] = [("", ast.parse(source))]
    while pending:
        name, node = pending.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text and ">>>" in text:
                yield Docstring(path, name, text, node.body[0].lineno - 1)
            for child in node.body:
                pending.append((f"{name}.{getattr(child, 'name', '')}".strip("."), child))


EXAMPLES = [found for path in sorted(SOURCE.rglob("*.py")) for found in docstrings(path)]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder with the two tiny models."""
    checkpoints = pytest.importorskip("tests.support.checkpoints", reason="writes with torch")
    root = tmp_path_factory.mktemp("models")
    sizes = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 1}
    sizes |= {"max_position_embeddings": 512}
    checkpoints.new_model(root / "minilm", **sizes)
    checkpoints.add_modules(root / "minilm", "mean", max_seq_length=512)
    classifier = ["NewForSequenceClassification"]
    checkpoints.new_model(root / "BAAI" / "bge-reranker-base", architectures=classifier, **sizes)
    late_models = pytest.importorskip("tests.support.late", reason="writes with transformers")
    late_models.pylate(root / "lightonai" / "LateOn", widths=(128,), document_length=60)
    return root


@pytest.fixture(scope="module")
def folder(models) -> Path:
    return models / "minilm"


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENGTE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def encoder(folder, cache) -> Encoder:
    return Encoder.load(folder)


@pytest.fixture(scope="module")
def reranker(models, cache) -> Reranker:
    return Reranker.load(models / "BAAI" / "bge-reranker-base")


@pytest.fixture(scope="module")
def late(models, cache) -> LateInteraction:
    return LateInteraction.load(models / "lightonai" / "LateOn")


def write_notes(parent: Path) -> Path:
    notes = parent / "notes"
    notes.mkdir()
    for name, text in NOTES.items():
        (notes / name).write_text(text, encoding="utf-8")
    return notes


@pytest.fixture(scope="module")
def index(encoder, tmp_path_factory) -> Path:
    """An index of `notes`, to be copied and never opened."""
    pytest.importorskip("lancedb", reason="an index is kept in LanceDB")
    root = tmp_path_factory.mktemp("index")
    KnowledgeBase.create(root / "kb", encoder).index([write_notes(root)])
    return root / "kb"


@pytest.fixture
def kb(index, encoder, tmp_path_factory) -> KnowledgeBase:
    copy = tmp_path_factory.mktemp("copy") / "kb"
    shutil.copytree(index, copy)
    return KnowledgeBase.open(copy, encoder)


@pytest.fixture
def working_folder(tmp_path, models, cache, monkeypatch) -> Path:
    """The folder that an example starts in."""
    write_notes(tmp_path)
    for name in ("minilm", "BAAI", "lightonai"):
        (tmp_path / name).symlink_to(models / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("docstring", EXAMPLES, ids=lambda d: f"{d.module}:{d.name}")
def test_example(docstring: Docstring, working_folder, request) -> None:
    try:
        module = importlib.import_module(docstring.module)
    except ImportError as error:
        pytest.skip(f"an optional dependency is not installed: {error}")
    names = vars(module) | {"np": np, "Encoder": Encoder, "Reranker": Reranker}
    names |= {"KnowledgeBase": KnowledgeBase, "LateInteraction": LateInteraction}
    for fixture in (
        "encoder",
        "reranker",
        "late",
        "folder",
        "kb",
    ):  # only what the example speaks of
        if re.search(rf"\b{fixture}\b(?!-| inter)", docstring.text):
            names[fixture] = request.getfixturevalue(fixture)
    name = f"{docstring.module}.{docstring.name}"
    examples = doctest.DocTestParser().get_doctest(
        docstring.text, names, name, str(docstring.path), docstring.line
    )
    report: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(examples, out=report.append)
    assert not report, "".join(report)


EVALUATE = "dataset systems compare significance sweep needle regression suites records"
OFFERED = (
    "opengte.Encoder",
    "opengte.Reranker",
    "opengte.KnowledgeBase",
    "opengte.bulk",
    "opengte.train",
    *(f"opengte.evaluate.{name}" for name in EVALUATE.split()),
)


def called_by_users(thing: object) -> Iterator[tuple[str, object]]:
    """Yield the functions, methods and properties that a package, module or class offers."""
    if inspect.ismodule(thing):
        here = vars(thing).items()
        names = getattr(thing, "__all__", None) or [
            name for name, value in here if getattr(value, "__module__", "") == thing.__name__
        ]
        for name in names:
            if name[0] != "_":
                yield from called_by_users(getattr(thing, name))
    elif inspect.isfunction(thing):
        yield f"{thing.__module__}.{thing.__qualname__}", thing
    elif thing in (Encoder, Reranker, KnowledgeBase):
        for name, member in inspect.getmembers(thing):
            if name[0] != "_" and (callable(member) or isinstance(member, property)):
                yield f"{thing.__name__}.{name}", member


@pytest.mark.parametrize("name", OFFERED)
def test_what_users_call_has_an_example_that_runs(name: str) -> None:
    offered = dict(called_by_users(pkgutil.resolve_name(name)))
    examples = {name: inspect.getdoc(value) or "" for name, value in offered.items()}
    assert offered
    assert not [n for n, text in examples.items() if ">>>" not in text or "+SKIP" in text]
