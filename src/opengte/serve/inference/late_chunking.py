"""Late chunking (arXiv 2409.04701): each piece is pooled from the states of the whole document.

The inputs are consecutive pieces of one document. They are read as one sequence, a space between
two pieces that have none at their border, and a piece's vector is the mean of the states of its
tokens; for models that pool the last token, the state of the piece's last token. A document longer
than the model takes is read in windows that overlap by a quarter; a token's state is that of the
window in which it is furthest from an edge.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from opengte import embedding_ops
from opengte.encoder import Encoder
from opengte.errors import CapabilityError, InputError
from opengte.serve.inference.registry import Ready
from opengte.serve.inference.tokenization import plain
from opengte.serve.inference.types import Spec, salt
from opengte.serve.types import Call, EmbedAnswer, EmbedRequest
from opengte.types import Floats

InPool = Callable[..., Awaitable[Any]]

OVERLAP = 4  # a quarter of a window is shared with the next one


@dataclass(frozen=True)
class Window:
    """Tokens [start, stop) of the document are read together; the states of [first, last) count."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class Document:
    """A document's token ids, the end of each piece in them, and the windows to read."""

    ids: tuple[int, ...]
    head: tuple[int, ...]  # the prompt, read before every window
    ends: tuple[int, ...]
    windows: tuple[Window, ...]


async def embed(
    ready: Ready, spec: Spec, request: EmbedRequest, call: Call, in_pool: InPool
) -> EmbedAnswer:
    """Answer a request whose inputs are the pieces of one document."""
    model = ready.model
    assert isinstance(model, Encoder)
    if spec.outputs != {"dense"}:
        raise CapabilityError("late chunking gives dense vectors only: leave out other outputs")
    check(model)
    whole: Document = await in_pool(document, model, request.inputs, spec.prefix)
    sources = [source(model, whole, window) for window in whole.windows]
    inner = states_of(model, spec)
    places = range(len(sources))
    job = await ready.runner.run(inner, sources, places, call, partial=False, strict=False)
    states = [row.states for row in job.rows if row is not None and row.states is not None]
    vectors = await in_pool(pool, model, whole, states, spec.size, spec.normalize)
    counts = np.diff((0, *whole.ends)).tolist()
    counts[0] += model.tokenizer.single.size + len(whole.head)
    return EmbedAnswer(
        model=ready.card,
        dense=vectors,
        sparse=None,
        tokens=None,
        states=None,
        token_counts=counts,
        cached=len(vectors) if job.shared == len(sources) else 0,
        timing=job.timing,
    )


def states_of(model: Encoder, spec: Spec) -> Spec:
    """Return the spec of a document's windows: their token states, which are not kept."""
    return Spec(
        outputs=frozenset(("states",)),
        size=model.card.dimension,
        salt=salt("late", spec.salt),
        cached=False,
    )


def check(model: Encoder) -> None:
    """Raise CapabilityError where a piece cannot be pooled from states."""
    plan = model.checkpoint.plan
    if plan.pooling not in ("mean", "cls", "last") or plan.dense:
        raise CapabilityError(
            f"`{model.card.name}` cannot chunk late: its vectors are more than pooled states"
        )


def document(model: Encoder, pieces: Sequence[str], prefix: str) -> Document:
    """Tokenise the pieces of a document."""
    ids: list[int] = []
    ends = []
    before = ""
    for place, piece in enumerate(pieces):
        if not isinstance(piece, str):
            raise InputError(f"inputs[{place}] is token ids, and late chunking takes texts only")
        joined = " " if before and not before[-1].isspace() and piece[:1].strip() else ""
        own = plain(model, joined + piece).ids.tolist() if piece.strip() else []
        if not own:
            raise InputError(f"inputs[{place}] is empty, expected a piece of the document")
        ids += own
        ends.append(len(ids))
        before = piece
    head = tuple(plain(model, prefix).ids.tolist()) if prefix else ()
    room = model.card.max_length - model.tokenizer.single.size - len(head)
    if room < 1:
        raise InputError(f"max_length = {model.card.max_length} leaves no room after the prompt")
    return Document(tuple(ids), head, tuple(ends), tuple(windows(len(ids), room)))


def windows(count: int, room: int) -> list[Window]:
    """Cut count tokens into windows of at most room, each overlapping the next."""
    if count <= room:
        return [Window(0, count, 0, count)]
    step = max(1, room - room // OVERLAP)
    starts = [*range(0, count - room, step), count - room]
    borders = [0]
    for start, following in zip(starts, starts[1:], strict=False):
        borders.append((following + start + room) // 2)  # the middle of what both have read
    borders.append(count)
    return [
        Window(start, start + room, first, last)
        for start, first, last in zip(starts, borders, borders[1:], strict=False)
    ]


def source(model: Encoder, document: Document, window: Window) -> tuple[int, ...]:
    """Return the token ids of a window as the model reads them, special tokens included."""
    before, after = (tuple(t for t, _ in part) for part in model.tokenizer.single.specials)
    return (*before, *document.head, *document.ids[window.start : window.stop], *after)


def pool(
    model: Encoder,
    document: Document,
    states: Sequence[Floats],
    size: int,
    normalize: bool,
) -> list[Floats]:
    """Return the vector of each piece from the states of each window."""
    skip = len(model.tokenizer.single.specials[0]) + len(document.head)
    parts = []
    for window, rows in zip(document.windows, states, strict=True):
        offset = skip - window.start
        parts.append(rows[window.first + offset : window.last + offset])
    whole = np.concatenate(parts)
    last = model.checkpoint.plan.pooling == "last"
    vectors, start = [], 0
    for end in document.ends:
        own = whole[start:end]
        vector = own[-1] if last else own.mean(axis=0, dtype=np.float64).astype(np.float32)
        vector = vector[:size].copy()
        vectors.append(embedding_ops.l2_normalise(vector[None])[0] if normalize else vector)
        start = end
    return vectors
