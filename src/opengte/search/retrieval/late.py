"""The late-interaction leg: token vectors of passages, beside the dense ones, rescore by MaxSim.

It finds nothing by itself: it scores the passages of the candidates that the other legs found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from opengte.embedding_ops import l2_normalise
from opengte.engine.maxsim import TokenVectors
from opengte.search.stores.base import ScoredIds, StoredDocument
from opengte.types import Floats, Ints

if TYPE_CHECKING:
    from opengte.encoder import LateInteraction


@dataclass(frozen=True)
class LatePassage:
    """The passage of a document with the best MaxSim: its score, its window and its place there."""

    score: float
    window: int
    place: int


@dataclass(frozen=True, eq=False)
class LateQuery:
    """A query as the late leg takes it.

    Attributes:
        model: The model of the token vectors of the index.
        vectors: The query's token vectors (q, d).
        words: Which of them are of the query's own text, (q,): no special token or expansion.
    """

    model: "LateInteraction"
    vectors: Floats
    words: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, model: "LateInteraction", text: str) -> tuple["LateQuery", bool]:
        """Encode a query; return as well whether it was longer than the model takes."""
        found = model.encoder.embed([text], role="query", outputs=("tokens",), progress=False)
        assert found.tokens is not None
        ids = _ids(model, text, "query")
        special = model.encoder.tokenizer.special_ids
        prompt = len(_prompt_tokens(model, "query"))
        before = len(model.encoder.tokenizer.single.specials[0]) + prompt
        own = np.array([i >= before and int(x) not in special for i, x in enumerate(ids)], bool)
        own = own[model.settings.scored(ids, "query")]
        words = np.zeros(len(found.tokens[0]), bool)
        words[: len(own)] = own
        return cls(model, found.tokens[0], words), bool(found.truncated)

    def rank(self, documents: Sequence[StoredDocument]) -> tuple[ScoredIds, dict[str, LatePassage]]:
        """Return the documents by their best passage, and that passage of each."""
        places = [
            (one.id, number, place)
            for one in documents
            for number, window in enumerate(one.windows)
            if window.late is not None
            for place in range(len(window.late))
        ]
        kept = [w.late for one in documents for w in one.windows if w.late is not None]
        kept = [one for one in kept if len(one)]
        if not kept:
            return [], {}
        scores = self.model.maxsim(self.vectors, joined(kept)).tolist()
        best: dict[str, LatePassage] = {}
        for (name, window, place), score in zip(places, scores, strict=True):
            if name not in best or score > best[name].score:
                best[name] = LatePassage(score, window, place)
        order = sorted(best, key=lambda name: (-best[name].score, name))
        return [(name, best[name].score) for name in order], best

    def marks(self, text: str, passage: TokenVectors) -> tuple[tuple[int, int], ...] | None:
        """Return the characters of the passage's tokens that the query's words matched best.

        None where its vectors are not those of its tokens, one by one: they were pooled.
        """
        offsets = passage_offsets(self.model, text)
        if len(offsets) != len(passage.values) or not self.words.any():
            return None
        products = l2_normalise(self.vectors[self.words]) @ passage.floats().T
        matched = {offsets[i] for i in products.argmax(axis=1).tolist()}
        return tuple(sorted((start, end) for start, end in matched if end > start))


def passage_offsets(model: "LateInteraction", text: str) -> list[tuple[int, int]]:
    """Return the characters of each token of a passage with a vector; (0, 0) for special ones."""
    tokenizer = model.encoder.tokenizer
    prompt = model.card.prompts.get("document", "")
    ids = _ids(model, text, "document")
    found = tokenizer.backend.encode(prompt + text, add_special_tokens=False).offsets
    before, after = (len(part) for part in tokenizer.single.specials)
    own = found[: len(ids) - before - after]
    shifted = [(max(0, a - len(prompt)), max(0, b - len(prompt))) for a, b in own]
    places = [(0, 0)] * before + shifted + [(0, 0)] * after
    scored = model.settings.scored(ids, "document")
    return [place for place, kept in zip(places, scored.tolist(), strict=True) if kept]


def _ids(model: "LateInteraction", text: str, role: str) -> Ints:
    """Return the tokens of a text as the model reads it, without the expansion."""
    encoder, known = model.encoder, model.card.prompts.get(role, "")
    limit = encoder.length_limit("query" if role == "query" else "document")
    return encoder.tokenizer.encode([text], prompt=known, max_length=limit).batch.ids


def _prompt_tokens(model: "LateInteraction", role: str) -> list[int]:
    prompt = model.card.prompts.get(role, "")
    backend = model.encoder.tokenizer.backend
    return list(backend.encode(prompt, add_special_tokens=False).ids) if prompt else []


def joined(parts: Sequence[TokenVectors]) -> TokenVectors:
    """Return token vectors that are stored alike, end to end."""
    sizes = np.concatenate([np.diff(part.starts) for part in parts])
    starts = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=starts[1:])
    scales = [part.scales for part in parts if part.scales is not None]
    return TokenVectors(
        np.concatenate([part.values for part in parts]),
        starts,
        np.concatenate(scales) if scales else None,
    )


def one_of(passages: TokenVectors, place: int) -> TokenVectors:
    """Return the token vectors of one passage."""
    first, last = int(passages.starts[place]), int(passages.starts[place + 1])
    scales = None if passages.scales is None else passages.scales[first:last]
    return TokenVectors(passages.values[first:last], np.array([0, last - first]), scales)
