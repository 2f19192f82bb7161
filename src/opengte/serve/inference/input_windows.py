"""A request's inputs in runs, each looked up and tokenised in a thread."""

import time
from collections.abc import Iterator, Sequence

from opengte.encoder import Encoder, Reranker
from opengte.errors import InputError
from opengte.serve.inference.disk_cache import Disk
from opengte.serve.inference.tokenization import characters, tokenise
from opengte.serve.inference.types import Flight, Row, Sequences, Source, Spec

FIRST_CHARACTERS, WINDOW_CHARACTERS = 1024, 65536  # of a request, tokenised at a time
WINDOW_TEXTS = 1024

Found = list[Sequences | InputError]
LookedUp = tuple[dict[bytes, Row], list[Flight], Found, float]


def look_up(
    model: Encoder | Reranker, disk: Disk | None, spec: Spec, flights: list[Flight]
) -> LookedUp:
    """Return the rows that are on disk, the other flights, their tokens, the seconds it took."""
    started = time.perf_counter()
    rows: dict[bytes, Row] = {}
    if disk is not None and spec.cached:
        rows = disk.get([flight.key for flight in flights if flight.key])
    rest = [flight for flight in flights if flight.key not in rows]
    found = tokenise(model, spec, [flight.source for flight in rest]) if rest else []
    return rows, rest, found, time.perf_counter() - started


def each(found: Found, count: int) -> Iterator[tuple[Sequences | InputError, int]]:
    """Yield where each of the inputs is: all in one batch, or each in one of its own."""
    if len(found) == count and count > 1:
        yield from ((one, 0) for one in found)
    else:
        yield from ((found[0], place) for place in range(count))


def windows(sources: Sequence[Source]) -> Iterator[tuple[int, int]]:
    """Yield the first and last place of runs of inputs, the first run short to begin early."""
    start, size, most = 0, 0, FIRST_CHARACTERS
    for i, source in enumerate(sources, 1):
        size += characters(source)
        if size >= most or i - start >= WINDOW_TEXTS:
            yield start, i
            start, size, most = i, 0, min(4 * most, WINDOW_CHARACTERS)
    if start < len(sources):
        yield start, len(sources)
