"""An encoder and a reranker of words, without weights; as a program, `gte` with them inside."""

import os
import time
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from opengte.errors import InputError, TruncationError
from opengte.types import Embeddings, ModelCard, Ranked, Truncated

WIDTH = 8
CARD = ModelCard(
    name="fake",
    source="nowhere",
    kind="encoder",
    architecture="words",
    layers=1,
    dimension=WIDTH,
    max_length=16,
    pooling="mean",
    outputs=("dense", "sparse", "tokens"),
    prompts={"query": "ask: ", "document": "say: "},
    instruction_template=None,
    default_instruction=None,
    dimensions=(4,),
    parameters=0,
    stored_dtype="fp32",
    licence=None,
    fingerprint="fake",
    engine="fake",
    precision="fp32",
    device="cpu",
    threads=1,
)


class FakeTokenizer:
    """A token is a word; a text has one special token at each end."""

    def count(self, texts: list[str], prompt: str = "") -> Any:
        return np.array([len((prompt + text).split()) + 2 for text in texts], dtype=np.int32)


@dataclass
class Counters:
    missing_instructions: int = 0


class FakeEncoder:
    """Adds up a pseudo-random vector a word; refuses texts with POISON in them."""

    def __init__(self, card: ModelCard) -> None:
        self.card = card
        self.counters = Counters()
        self.tokenizer = FakeTokenizer()

    @classmethod
    def load(cls, model: str, *, max_length: int | None = None, **settings: Any) -> "FakeEncoder":
        name = "fake" if model == "minilm" else model
        settings = {k: v for k, v in settings.items() if k in ("precision",) and v != "auto"}
        length = max_length or CARD.max_length
        return cls(replace(CARD, name=name, fingerprint=name, max_length=length, **settings))

    def embed(
        self,
        texts: list[str],
        *,
        role: str | None = None,
        instruction: str | None = None,
        outputs: tuple[str, ...] = ("dense",),
        dimensions: int | None = None,
        truncation: str = "right",
        progress: bool | None = None,
    ) -> Embeddings:
        time.sleep(float(os.environ.get("FAKE_DELAY", "0")))
        if dimensions is not None and dimensions > WIDTH:
            raise InputError(f"dimensions is {dimensions}, expected 1 to {WIDTH}")
        if any("POISON" in text for text in texts):
            raise InputError("a text cannot be tokenised")
        prompt = self.card.prompts.get(role or "", "")
        words = [(prompt + text).split() for text in texts]
        room = self.card.max_length - 2
        long = [(i, len(row) + 2) for i, row in enumerate(words) if len(row) > room]
        if long and truncation == "error":
            raise TruncationError(f"text {long[0][0]} has {long[0][1]} tokens")
        words = [row[:room] for row in words]
        return Embeddings(
            dense=self._dense(words, dimensions) if "dense" in outputs else None,
            sparse=tuple(map(sparse, words)) if "sparse" in outputs else None,
            tokens=tuple(map(tokens, words)) if "tokens" in outputs else None,
            states=None,
            token_counts=np.array([len(row) + 2 for row in words], dtype=np.int32),
            truncated=tuple(Truncated(i, n, room + 2) for i, n in long),
            repaired=tuple(i for i, text in enumerate(texts) if "\ud800" in text),
        )

    def _dense(self, words: list[list[str]], dimensions: int | None) -> Any:
        seeds = [[self.card.fingerprint, *row] for row in words]
        rows = [np.sum([vector(word) for word in row], axis=0) for row in seeds]
        array = np.array(rows, dtype=np.float32).reshape(-1, WIDTH)[:, :dimensions]
        return array / np.linalg.norm(array, axis=1, keepdims=True)

    def similarity(self, a: Any, b: Any) -> Any:
        return a @ b.T


class FakeReranker:
    """Counts the words that a document shares with the query."""

    def __init__(self) -> None:
        self.counters = Counters()

    @classmethod
    def load(cls, model: str, **settings: Any) -> "FakeReranker":
        return cls()

    def rank(
        self,
        query: str,
        documents: list[str],
        top_k: int | None = None,
        *,
        instruction: str | None = None,
    ) -> list[Ranked]:
        asked = set(query.split())
        scores = [float(len(asked & set(document.split()))) for document in documents]
        order = sorted(range(len(scores)), key=lambda i: -scores[i])[:top_k]
        return [Ranked(i, scores[i], documents[i]) for i in order]


def vector(word: str) -> Any:
    seed = zlib.crc32(word.encode("utf-8", "surrogatepass"))
    return np.random.default_rng(seed).standard_normal(WIDTH)


def sparse(words: list[str]) -> dict[int, float]:
    return {zlib.crc32(word.encode()) % 1000: 1 / 3 for word in words}


def tokens(words: list[str]) -> Any:
    rows = [vector(word)[:3] for word in words]
    return np.array(rows, dtype=np.float32).reshape(len(words), 3)


if __name__ == "__main__":
    import opengte
    from opengte.cli import main

    opengte.Encoder = FakeEncoder  # type: ignore[misc,assignment]
    opengte.Reranker = FakeReranker  # type: ignore[misc,assignment]
    main()
