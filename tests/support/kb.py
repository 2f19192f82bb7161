"""What tests of the knowledge base share: documents by the dozen, an encoder, an index."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from click.testing import CliRunner

import opengte
from opengte.search.kb import KnowledgeBase
from opengte.search.minhash import signature
from opengte.search.parse.base import Section
from opengte.search.stores.base import SpanVectors, StoredDocument, StoredWindow
from tests.support.fake_models import FakeEncoder, FakeTokenizer

WORDS = "red green blue cat dog fish runs sleeps eats grass tax law house river stone".split()


@dataclass(frozen=True)
class Encoding:
    offsets: list[tuple[int, int]]


class Backend:
    """Says where words are."""

    def encode_batch(self, texts, add_special_tokens):
        return [Encoding([match.span() for match in re.finditer(r"\S+", text)]) for text in texts]


class WordTokenizer(FakeTokenizer):
    backend = Backend()
    lowercase = False

    def part(self, text, tokens):
        return text


class WordEncoder(FakeEncoder):
    """The encoder of words, with what an index asks of a tokenizer."""

    def __init__(self, card):
        super().__init__(card)
        self.tokenizer = WordTokenizer()


def encoder(name: str = "minilm", **settings) -> FakeEncoder:
    return WordEncoder.load(name, **settings)


def kb(tmp_path, name: str = "kb", **settings) -> KnowledgeBase:
    return KnowledgeBase.create(tmp_path / name, encoder(), **settings)


def unit(vector):
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def document(name: str, rng, width: int = 8, windows: int | None = None, **values):
    """A document of random words with random vectors."""
    text = " ".join(rng.choice(WORDS, int(rng.integers(3, 40))))
    made = {
        "id": name,
        "source": f"/files/{name}",
        "title": str(rng.choice(WORDS)),
        "text": text,
        "content": f"content of {name}",
        "row": "row",
        "signature": signature(text),
        "windows": tuple(window(rng, width, len(text)) for _ in range(windows or 1)),
        "metadata": metadata(rng),
        "sections": (Section(0, "Head"),),
        "warnings": ("a warning",),
        "line": int(rng.integers(1, 9)),
    }
    return StoredDocument(**{**made, **values})


def window(rng, width, length):
    spans = SpanVectors(
        np.array([[0, length]], np.int32),
        rng.integers(-127, 127, (1, width)).astype(np.int8),
        np.array([0.01], np.float32),
    )
    tokens = rng.choice(50, 5, replace=False).tolist()
    sparse = {int(token): float(np.float32(rng.random() + 0.1)) for token in tokens}
    return StoredWindow(0, length, unit(rng.standard_normal(width)), spans, 7, sparse)


def metadata(rng):
    choices = {
        "year": [1999, 2005, 2024, "n/a", 2005.5],
        "lang": ["de", "fr", "it's", "true"],
        "draft": [True, False],
        "path": ["/a/b.txt", "/a/c%.txt", "/b"],
    }
    return {
        key: values[int(rng.integers(len(values)))]
        for key, values in choices.items()
        if rng.random() < 0.8
    }


def same(a: StoredDocument, b: StoredDocument) -> None:
    """Assert that two documents are equal, vectors included."""
    fields = "id source title text content row signature line sections warnings truncated".split()
    for name in fields:
        assert getattr(a, name) == getattr(b, name), name
    assert dict(a.metadata) == dict(b.metadata)
    assert len(a.windows) == len(b.windows)
    for x, y in zip(a.windows, b.windows, strict=True):
        assert (x.start, x.end, x.tokens) == (y.start, y.end, y.tokens)
        np.testing.assert_array_equal(x.vector, y.vector)
        np.testing.assert_array_equal(x.spans.bounds, y.spans.bounds)
        np.testing.assert_array_equal(x.spans.vectors, y.spans.vectors)
        np.testing.assert_array_equal(x.spans.scales, y.spans.scales)
        assert dict(x.sparse) == dict(y.sparse)


def check_commands(place, other, folder: Path, monkeypatch) -> None:
    """Index, search, export and import from the command line; `other` is where the copy goes."""
    monkeypatch.setattr(opengte, "Encoder", WordEncoder)
    from opengte.cli import main

    (folder / "notes").mkdir()
    (folder / "notes" / "cat.txt").write_text("the cat sleeps in the house")
    (folder / "notes" / "dog.txt").write_text("a dog runs")

    def gte(*arguments):
        done = CliRunner().invoke(main, list(map(str, arguments)))
        assert done.exit_code == 0, done.output
        return done.output

    assert "2 new" in gte("index", folder / "notes", "--to", place)
    assert "2 unchanged" in gte("index", folder / "notes", "--to", place)
    assert "cat.txt" in gte("search", "cats sleeping", "--in", place, "-k", "1")
    assert "documents     2" in gte("index", "status", place, "--sample", "2")
    gte("index", "export", place, folder / "kb.parquet")
    gte("index", "import", folder / "kb.parquet", "--to", other)
    copy, base = (KnowledgeBase.open(one, encoder()) for one in (other, place))
    for one, two in zip(copy.store.scan(), base.store.scan(), strict=True):
        same(one, two)
    assert copy.identity == base.identity
