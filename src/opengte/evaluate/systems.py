"""Retrieval systems, measured: a model with its settings, its rankings and its cost."""

import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from opengte.embedding_ops import l2_normalise
from opengte.errors import InputError, MissingExtraError
from opengte.evaluate.cached_encoder import CachedEncoder, SupportsEmbed, VectorCache
from opengte.evaluate.dataset import RetrievalDataset
from opengte.types import Floats, TruncationSide

MEASURES = ("nDCG@10", "R@10", "R@100", "RR@10", "AP@100")
DEPTH = 100  # documents kept a query
TIMED = 16  # queries answered one at a time, to time them
BLOCK = 16_384  # documents scored at once

Ranking = dict[str, float]  # document id -> score


@dataclass(frozen=True)
class RetrievalSystem:
    """A model with the settings that a comparison may vary; None is the model's default."""

    model: str
    engine: str = "auto"
    precision: str = "auto"
    dimensions: int | None = None
    max_length: int | None = None
    instruction: str | None = None
    truncation: TruncationSide = "right"
    reranker: str | None = None
    depth: int = 50  # documents that the reranker reads

    @property
    def label(self) -> str:
        """Return the model and the settings that differ from their defaults."""
        usual = RetrievalSystem(self.model)
        given = [f for f in fields(self)[1:] if getattr(self, f.name) != getattr(usual, f.name)]
        return ", ".join([self.model, *(f"{f.name}={getattr(self, f.name)}" for f in given)])

    @property
    def vectors(self) -> "RetrievalSystem":
        """Return the settings that determine the full vectors; equal ones share vectors."""
        return replace(self, dimensions=None, reranker=None, depth=RetrievalSystem.depth)


@dataclass(frozen=True)
class SystemCost:
    """What a system costs; query_ms is the latency of a single query, reranking included."""

    tokens_per_second: float
    document_ms: float
    query_ms: float
    vector_bytes: int
    truncated: int


@dataclass(frozen=True, eq=False)
class SystemResult:
    """The rankings of a system, and each measure's value for each query, 0 to 1."""

    system: RetrievalSystem
    about: Mapping[str, Any]
    rankings: Mapping[str, Ranking]
    measures: Mapping[str, Mapping[str, float]]
    cost: SystemCost

    def mean(self, measure: str) -> float:
        """Return a measure's mean over the queries, in points."""
        values = self.measures[measure].values()
        return 100 * sum(values) / len(values)


@dataclass(frozen=True)
class ModelLoaders:
    """Functions that load the encoder and the reranker of a system."""

    encoder: Callable[[RetrievalSystem], SupportsEmbed]
    reranker: Callable[[RetrievalSystem], Any]


def parse_system(text: str, **shared: Any) -> RetrievalSystem:
    """Parse `MODEL,setting=value,...`; shared holds values for settings that it does not name.

    Raises InputError for an unknown setting or value.

    >>> parse_system("minilm,dimensions=64,precision=fp32").dimensions
    64
    """
    names = [f.name for f in fields(RetrievalSystem)[1:]]
    model, *settings = re.split(rf",(?=(?:{'|'.join(names)}|\w+)=)", text)
    values: dict[str, Any] = {name: value for name, value in shared.items() if value is not None}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in names:
            raise InputError(f"{text!r} sets {name!r}, expected one of {', '.join(names)}")
        values[name] = _number(text, name, value) if name in _NUMBERS else value
    if not model:
        raise InputError(f"{text!r} names no model, expected MODEL or MODEL,setting=value,...")
    if values.get("truncation", "right") not in ("right", "left", "error"):
        raise InputError(f"{text!r} sets truncation, expected right, left or error")
    return RetrievalSystem(model, **values)


_NUMBERS = ("dimensions", "max_length", "depth")


def _number(text: str, name: str, value: str) -> int:
    if not value.isdigit() or int(value) < 1:
        raise InputError(f"{text!r} sets {name} to {value!r}, expected a whole number above 0")
    return int(value)


def evaluate_systems(
    systems: Sequence[RetrievalSystem],
    dataset: RetrievalDataset,
    loaders: ModelLoaders,
    *,
    advance: Callable[[int], None] | None = None,
) -> Iterator[SystemResult]:
    """Yield the result of each system, in order; systems with the same vectors encode once.

    advance is called with the number of texts encoded since the last call. Measures are computed by
    ir-measures. Raises InputError for dimensions that a model does not have, and MissingExtraError
    without ir-measures.

    >>> from opengte.evaluate.dataset import load_dataset
    >>> from pathlib import Path
    >>> _ = Path("faq.csv").write_text("question,answer\\nwho purrs,a cat purrs\\n")
    >>> loaders = ModelLoaders(lambda system: encoder, lambda system: None)
    >>> dataset = load_dataset(Path("faq.csv"))
    >>> (result,) = evaluate_systems([parse_system("minilm,dimensions=64")], dataset, loaders)
    >>> result.mean("nDCG@10"), result.cost.vector_bytes
    (100.0, 256)
    """
    measured: dict[RetrievalSystem, _Vectors] = {}
    left = [system.vectors for system in systems]
    for system in systems:
        if system.vectors not in measured:
            encoder = loaders.encoder(system)
            _check_dimensions(systems, system.vectors, encoder.card.dimension)
            measured[system.vectors] = _encode(system, encoder, dataset, advance)
        yield _outcome(system, measured[system.vectors], dataset, loaders)
        left.remove(system.vectors)
        if system.vectors not in left:
            del measured[system.vectors]  # and with it the model


@dataclass(frozen=True, eq=False)
class _Vectors:
    encoder: SupportsEmbed
    queries: Floats
    documents: Floats
    tokens_per_second: float
    document_seconds: float
    query_seconds: float
    truncated: int


def _check_dimensions(
    systems: Sequence[RetrievalSystem], vectors: RetrievalSystem, width: int
) -> None:
    for system in systems:
        if system.vectors == vectors and system.dimensions and system.dimensions > width:
            raise InputError(
                f"dimensions is {system.dimensions}, but `{system.model}` has vectors of {width}"
            )


def _encode(
    system: RetrievalSystem,
    encoder: SupportsEmbed,
    dataset: RetrievalDataset,
    advance: Callable[[int], None] | None,
) -> _Vectors:
    worker = CachedEncoder(
        encoder, truncation=system.truncation, cache=VectorCache(0), advance=advance
    )
    documents = worker.encode(list(dataset.documents.values()), "document", None)
    done = worker.stats.copy()
    asked = list(dataset.queries.values())
    queries = worker.encode(asked, "query", system.instruction)
    return _Vectors(
        encoder=encoder,
        queries=queries,
        documents=documents,
        tokens_per_second=done.tokens_per_second,
        document_seconds=done.seconds / len(documents),
        query_seconds=_timed(worker, asked[:TIMED], system.instruction),
        truncated=worker.stats.truncated,
    )


def _timed(worker: CachedEncoder, queries: Sequence[str], instruction: str | None) -> float:
    """Return the median seconds of encoding one query."""
    worker.advance, seconds = None, []
    for query in queries:
        start = time.perf_counter()
        worker.encode([query], "query", instruction)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _outcome(
    system: RetrievalSystem, vectors: _Vectors, dataset: RetrievalDataset, loaders: ModelLoaders
) -> SystemResult:
    card = vectors.encoder.card
    width = system.dimensions or card.dimension
    start = time.perf_counter()
    rankings = _search(
        l2_normalise(vectors.queries[:, :width]),
        l2_normalise(vectors.documents[:, :width]),
        dataset,
    )
    seconds = vectors.query_seconds + (time.perf_counter() - start) / len(dataset.queries)
    if system.reranker is not None:
        start = time.perf_counter()
        rankings = _rerank(system, loaders.reranker(system), rankings, dataset)
        seconds += (time.perf_counter() - start) / len(dataset.queries)
    return SystemResult(
        system=system,
        about={
            "fingerprint": card.fingerprint,
            "engine": card.engine,
            "precision": card.precision,
            "dimensions": width,
            "max_length": card.max_length,
        },
        rankings=rankings,
        measures=compute_measures(dataset, rankings),
        cost=SystemCost(
            tokens_per_second=vectors.tokens_per_second,
            document_ms=1000 * vectors.document_seconds,
            query_ms=1000 * seconds,
            vector_bytes=4 * width,
            truncated=vectors.truncated,
        ),
    )


def _search(queries: Floats, documents: Floats, dataset: RetrievalDataset) -> dict[str, Ranking]:
    """Return the best documents of each query, exactly; equal scores in the order of documents."""
    scores = np.empty((len(queries), 0), np.float32)
    places = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(documents), BLOCK):
        block = queries @ documents[start : start + BLOCK].T
        here = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
        scores = np.concatenate([scores, block], axis=1)
        places = np.concatenate([places, here], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
        scores = np.take_along_axis(scores, order, axis=1)
        places = np.take_along_axis(places, order, axis=1)
    ids = list(dataset.documents)
    return {
        query: {ids[place]: float(score) for place, score in zip(*row, strict=True)}
        for query, *row in zip(dataset.queries, places.tolist(), scores.tolist(), strict=True)
    }


def _rerank(
    system: RetrievalSystem,
    reranker: Any,
    rankings: Mapping[str, Ranking],
    dataset: RetrievalDataset,
) -> dict[str, Ranking]:
    """Return rankings whose top documents are reranked, followed by the others."""
    result = {}
    for query, ranking in rankings.items():
        ids = list(ranking)
        read, rest = ids[: system.depth], ids[system.depth :]
        texts = [dataset.documents[key] for key in read]
        scores = reranker.score(dataset.queries[query], texts).tolist()
        order = sorted(range(len(read)), key=lambda place: -scores[place])
        ordered = [read[place] for place in order] + rest
        result[query] = {key: float(len(ordered) - rank) for rank, key in enumerate(ordered)}
    return result


def compute_measures(
    dataset: RetrievalDataset, rankings: Mapping[str, Ranking], names: Sequence[str] = MEASURES
) -> dict[str, dict[str, float]]:
    """Return the value of each measure for each query, 0 to 1, as ir-measures computes it.

    >>> from pathlib import Path
    >>> from opengte.evaluate.dataset import load_dataset
    >>> _ = Path("faq.csv").write_text("question,answer\\nwho purrs,a cat\\nwho barks,a dog\\n")
    >>> dataset = load_dataset(Path("faq.csv"))
    >>> rankings = {query: {"d1": 2.0, "d2": 1.0} for query in dataset.queries}
    >>> sorted(compute_measures(dataset, rankings, ["RR"])["RR"].values())
    [0.5, 1.0]
    """
    try:
        import ir_measures
    except ImportError as error:
        raise MissingExtraError("ir-measures", "eval", "measuring rankings") from error
    measures = {ir_measures.parse_measure(name): name for name in names}
    values = {name: dict.fromkeys(dataset.queries, 0.0) for name in names}
    for found in ir_measures.iter_calc(list(measures), dataset.qrels, dict(rankings)):
        values[measures[found.measure]][found.query_id] = float(found.value)
    return values
