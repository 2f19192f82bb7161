"""Splits a request's inputs into windows; each is looked up and tokenized in a thread."""

import time
from collections.abc import Iterator, Sequence

from opengte.encoder import Encoder, Reranker
from opengte.errors import InputError
from opengte.serve.inference.disk_cache import DiskCache
from opengte.serve.inference.preprocessing.tokenization import count_characters, tokenize_inputs
from opengte.serve.inference.types import (
    InputResult,
    ModelInput,
    PendingInput,
    RequestOptions,
    TokenizedInputs,
)

FIRST_WINDOW_CHARACTERS, MAX_WINDOW_CHARACTERS = 1024, 65536
MAX_WINDOW_INPUTS = 1024

TokenizedOrErrors = list[TokenizedInputs | InputError]
# results from disk, the other inputs, their tokens, and the seconds it took
Lookup = tuple[dict[bytes, InputResult], list[PendingInput], TokenizedOrErrors, float]


def look_up_and_tokenize(
    model: Encoder | Reranker,
    disk: DiskCache | None,
    options: RequestOptions,
    inputs: list[PendingInput],
) -> Lookup:
    """Read the results that are on disk, and tokenize the other inputs."""
    started = time.perf_counter()
    results: dict[bytes, InputResult] = {}
    if disk is not None and options.cached:
        results = disk.get([pending.key for pending in inputs if pending.key])
    misses = [pending for pending in inputs if pending.key not in results]
    contents = [pending.content for pending in misses]
    tokenized = tokenize_inputs(model, options, contents) if misses else []
    return results, misses, tokenized, time.perf_counter() - started


def per_input(
    tokenized: TokenizedOrErrors, count: int
) -> Iterator[tuple[TokenizedInputs | InputError, int]]:
    """Yield for each input its tokenized batch, or error, and its index in that batch."""
    if len(tokenized) == count and count > 1:
        yield from ((each, 0) for each in tokenized)
    else:
        yield from ((tokenized[0], index) for index in range(count))


def input_windows(inputs: Sequence[ModelInput]) -> Iterator[tuple[int, int]]:
    """Yield the start and end of consecutive windows; the first is short, to start work early."""
    start, size, limit = 0, 0, FIRST_WINDOW_CHARACTERS
    for end, content in enumerate(inputs, 1):
        size += count_characters(content)
        if size >= limit or end - start >= MAX_WINDOW_INPUTS:
            yield start, end
            start, size, limit = end, 0, min(4 * limit, MAX_WINDOW_CHARACTERS)
    if start < len(inputs):
        yield start, len(inputs)
