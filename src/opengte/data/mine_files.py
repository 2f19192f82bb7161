"""Hard negatives for files of pairs; texts, vectors and candidates are on disk, not in memory."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from opengte.data import spool, writing
from opengte.data.cleaning import CAREFUL, Cleaner, Cleaning
from opengte.data.columns import Columns
from opengte.data.examples import BadRow, Example
from opengte.data.excluded import texts_of
from opengte.data.filters import BAD, Hashed, Rules, cleaned
from opengte.data.mining import Collection, Embed, Mined, Score, Settings, mine, negatives
from opengte.data.sources import Spec, columns_of, examples
from opengte.errors import InputError

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Models:
    """What embeds queries and documents, what identifies it, and a reranker, if there is one."""

    queries: Embed
    documents: Embed
    identity: dict[str, Any]
    score: Score | None = None
    write_scores: bool = False  # of the reranker, for every document of a row


def mine_files(
    specs: Sequence[Spec],
    output: Path,
    models: Models,
    settings: Settings,
    *,
    corpus: Sequence[Path] = (),
    cleaning: Cleaning = CAREFUL,
    advance: Advance = lambda texts: None,
) -> Mined:
    """Write the rows of sources with hard negatives, and say what became of the candidates.

    corpus are files of more texts that may be negatives. InputError for sources that are not pairs,
    before any work. `OUTPUT.work` holds what is too large for memory; after a kill it is continued.
    """
    writing.check_path(output)
    places = [(spec, _pairs(spec)) for spec in specs]
    work = output.with_name(output.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    mined, collection = Mined(), Collection(work)
    try:
        for example in _rows(places, cleaning, mined.dropped):
            collection.add(example)
        if not len(collection.queries):
            raise InputError(f"no row of {_named(specs)} can be used; expected pairs")
        clean = Cleaner(cleaning, Counter())
        for path in corpus:
            for text in map(clean, texts_of(path)):
                if text:
                    collection.add_text(text)
        found = _candidates(collection, work, models, settings, mined, advance)
        rows = _with_negatives(places, cleaning, collection, found, models, settings, mined)
        writing.write(output, rows, settings.count)
    finally:
        collection.close()
    shutil.rmtree(work)
    return mined


def _named(specs: Sequence[Spec]) -> str:
    return ", ".join(f"`{spec.name}`" for spec in specs)


def _pairs(spec: Spec) -> Columns:
    columns = columns_of(spec.paths, spec.columns)
    if columns.kind != "pairs":
        raise InputError(
            f"source `{spec.name}` holds {columns.kind} ({columns}); negatives are mined for "
            "pairs. Name the columns of query and positive."
        )
    return columns


def _rows(
    places: Sequence[tuple[Spec, Columns]], cleaning: Cleaning, dropped: Counter[str]
) -> Iterator[Example]:
    """Yield the rows that can be used, cleaned, without texts that are in them twice."""
    clean, rules = Cleaner(cleaning, Counter()), Rules()
    for spec, columns in places:
        for item in examples(spec.paths, columns):
            if isinstance(item, BadRow):
                dropped[BAD] += 1
                continue
            example = cleaned(item, clean)
            outcome = rules.apply(example, Hashed.of(example), Counter())
            if isinstance(outcome, str):
                dropped[outcome] += 1
            else:
                yield outcome[0]


def _candidates(
    collection: Collection,
    work: Path,
    models: Models,
    settings: Settings,
    mined: Mined,
    advance: Advance,
) -> Any:
    """Return the numbers of each query's candidates, nearest first, -1 where there are no more."""
    first, second = collection.identity(models.identity)
    queries = spool.vectors(
        collection.queries, models.queries, work / "queries.f32", first, advance
    )
    corpus = spool.vectors(
        collection.corpus, models.documents, work / "corpus.f32", second, advance
    )
    shape = (len(queries), settings.last)
    found = np.lib.format.open_memmap(work / "candidates.npy", "w+", np.int64, shape)
    found[:] = -1
    for number, _, kept in mine(collection, queries, corpus, settings, mined, models.score):
        found[number, : len(kept)] = [one.number for one in kept]
    return found


def _with_negatives(
    places: Sequence[tuple[Spec, Columns]],
    cleaning: Cleaning,
    collection: Collection,
    found: Any,
    models: Models,
    settings: Settings,
    mined: Mined,
) -> Iterator[Example]:
    hashes = list(collection.corpus_numbers)
    for example in _rows(places, cleaning, Counter()):
        query = collection.query_numbers[Hashed.of(example).query]
        numbers = [number for number in found[query].tolist() if number >= 0]
        chosen = negatives(example, [(n, hashes[n]) for n in numbers], settings, mined)
        texts = [collection.corpus[number] for number in chosen]
        full = replace(example, negatives=(*example.negatives, *texts), scores=None)
        if models.write_scores and models.score is not None:
            values = models.score(full.query, full.documents)
            full = replace(full, scores=tuple(map(float, values)))
        yield full
