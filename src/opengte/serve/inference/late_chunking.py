"""Late chunking (arXiv 2409.04701): each chunk is pooled from the token states of the document.

The inputs are consecutive chunks of one document. The model reads them as one sequence, with a
space between two chunks that have none at their border, and the vector of a chunk is the mean of
the states of its tokens; for models with last-token pooling, the state of its last token. A
document that is longer than the model's maximum is read in windows that overlap by a quarter; the
state of a token comes from the window in which the token is furthest from an edge.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from opengte import embedding_ops
from opengte.encoder import Encoder
from opengte.errors import CapabilityError, InputError
from opengte.serve.inference.preprocessing.tokenization import bare_tokens
from opengte.serve.inference.registry import ReadyModel
from opengte.serve.inference.types import RequestOptions, salt
from opengte.serve.types import Call, EmbedAnswer, EmbedRequest
from opengte.types import Floats

InPool = Callable[..., Awaitable[Any]]

OVERLAP = 4  # consecutive windows share one quarter


@dataclass(frozen=True)
class TokenWindow:
    """The model reads tokens [start, stop) together; the states of [first, last) are used."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class ChunkedDocument:
    """The token ids of a document, the end of each chunk in them, and the windows to read."""

    ids: tuple[int, ...]
    prompt: tuple[int, ...]  # read before every window
    ends: tuple[int, ...]
    windows: tuple[TokenWindow, ...]


async def embed_chunks(
    ready: ReadyModel, options: RequestOptions, request: EmbedRequest, call: Call, in_pool: InPool
) -> EmbedAnswer:
    """Answer a request whose inputs are the chunks of one document.

    Raises CapabilityError for a model whose vectors are not pooled states, and InputError for a
    chunk without text.
    """
    model = ready.model
    assert isinstance(model, Encoder)
    if options.outputs != {"dense"}:
        raise CapabilityError("late chunking gives dense vectors only: leave out other outputs")
    _check_model(model)
    document: ChunkedDocument = await in_pool(
        tokenize_document, model, request.inputs, options.prefix
    )
    contents = [_window_ids(model, document, window) for window in document.windows]
    inner = _states_options(model, options)
    pending = await ready.runner.run(inner, contents, range(len(contents)), call)
    states = [
        result.states
        for result in pending.results
        if result is not None and result.states is not None
    ]
    vectors = await in_pool(pool_chunks, model, document, states, options.size, options.normalize)
    counts = np.diff((0, *document.ends)).tolist()
    counts[0] += model.tokenizer.single.size + len(document.prompt)
    return EmbedAnswer(
        model=ready.card,
        dense=vectors,
        sparse=None,
        tokens=None,
        states=None,
        token_counts=counts,
        cached=len(vectors) if pending.shared == len(contents) else 0,
        timing=pending.timing,
    )


def _states_options(model: Encoder, options: RequestOptions) -> RequestOptions:
    """Return the options of a document's windows: token states, which are not cached."""
    return RequestOptions(
        outputs=frozenset(("states",)),
        size=model.card.dimension,
        salt=salt("late", options.salt),
        cached=False,
    )


def _check_model(model: Encoder) -> None:
    """Raise CapabilityError if chunks cannot be pooled from token states."""
    plan = model.checkpoint.plan
    if plan.pooling not in ("mean", "cls", "last") or plan.dense:
        raise CapabilityError(
            f"`{model.card.name}` cannot chunk late: its vectors are more than pooled states"
        )


def tokenize_document(model: Encoder, chunks: Sequence[str], prefix: str) -> ChunkedDocument:
    """Tokenize the chunks of a document."""
    ids: list[int] = []
    ends = []
    previous = ""
    for index, chunk in enumerate(chunks):
        if not isinstance(chunk, str):
            raise InputError(f"inputs[{index}] is token ids, and late chunking takes texts only")
        space = " " if previous and not previous[-1].isspace() and chunk[:1].strip() else ""
        own = bare_tokens(model, space + chunk).tolist() if chunk.strip() else []
        if not own:
            raise InputError(f"inputs[{index}] is empty, expected a piece of the document")
        ids += own
        ends.append(len(ids))
        previous = chunk
    prompt = tuple(bare_tokens(model, prefix).tolist()) if prefix else ()
    room = model.card.max_length - model.tokenizer.single.size - len(prompt)
    if room < 1:
        raise InputError(f"max_length = {model.card.max_length} leaves no room after the prompt")
    return ChunkedDocument(tuple(ids), prompt, tuple(ends), tuple(token_windows(len(ids), room)))


def token_windows(count: int, room: int) -> list[TokenWindow]:
    """Cut count tokens into windows of at most room tokens; each overlaps the next."""
    if count <= room:
        return [TokenWindow(0, count, 0, count)]
    step = max(1, room - room // OVERLAP)
    starts = [*range(0, count - room, step), count - room]
    borders = [0]
    for start, following in zip(starts, starts[1:], strict=False):
        borders.append((following + start + room) // 2)  # the middle of the overlap
    borders.append(count)
    return [
        TokenWindow(start, start + room, first, last)
        for start, first, last in zip(starts, borders, borders[1:], strict=False)
    ]


def _window_ids(model: Encoder, document: ChunkedDocument, window: TokenWindow) -> tuple[int, ...]:
    """Return the token ids of a window with the prompt and the special tokens."""
    before, after = (tuple(t for t, _ in part) for part in model.tokenizer.single.specials)
    return (*before, *document.prompt, *document.ids[window.start : window.stop], *after)


def pool_chunks(
    model: Encoder,
    document: ChunkedDocument,
    states: Sequence[Floats],
    size: int,
    normalize: bool,
) -> list[Floats]:
    """Return the (size,) float32 vector of each chunk from the (length, width) window states."""
    skip = len(model.tokenizer.single.specials[0]) + len(document.prompt)
    parts = []
    for window, rows in zip(document.windows, states, strict=True):
        offset = skip - window.start
        parts.append(rows[window.first + offset : window.last + offset])
    document_states = np.concatenate(parts)
    last_token = model.checkpoint.plan.pooling == "last"
    vectors, start = [], 0
    for end in document.ends:
        own = document_states[start:end]
        vector = own[-1] if last_token else own.mean(axis=0, dtype=np.float64).astype(np.float32)
        vector = vector[:size].copy()
        vectors.append(embedding_ops.l2_normalise(vector[None])[0] if normalize else vector)
        start = end
    return vectors
