"""Hard-negative mining for files of pairs; texts, vectors and candidates are on disk."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from opengte.atomic_files import atomic_write
from opengte.data.cleaning.filters import BAD, ExampleHashes, FilterRules, clean_example
from opengte.data.cleaning.report import dropped_row_record
from opengte.data.cleaning.text_cleaning import DEFAULT_CLEANING, CleaningSettings, TextCleaner
from opengte.data.examples import Example, UnusableRow
from opengte.data.mining import disk_store
from opengte.data.mining.hard_negatives import (
    EmbedTexts,
    MiningCorpus,
    MiningReport,
    MiningSettings,
    ScoreDocuments,
    draw_negatives,
    mine_candidates,
)
from opengte.data.reading import writer
from opengte.data.reading.column_mapping import ColumnMapping
from opengte.data.reading.sources import SourceSpec, detect_columns, read_examples
from opengte.data.reading.text_extraction import all_texts
from opengte.errors import InputError

Advance = Callable[[int], None]


@dataclass(frozen=True)
class MiningModels:
    """Functions that embed, the identity of their model, and an optional reranker.

    queries and documents map texts to unit vectors (n, d) float32; score maps a query and documents
    to scores (n,).
    """

    queries: EmbedTexts
    documents: EmbedTexts
    identity: dict[str, Any]
    score: ScoreDocuments | None = None
    write_scores: bool = False  # of the reranker, for every document of a row


def mine_hard_negatives(
    specs: Sequence[SourceSpec],
    output: Path,
    models: MiningModels,
    settings: MiningSettings,
    *,
    corpus: Sequence[Path] = (),
    cleaning: CleaningSettings = DEFAULT_CLEANING,
    copy: bool = False,
    advance: Advance = lambda texts: None,
) -> MiningReport:
    r"""Write the rows of sources with hard negatives, and return the counts.

    corpus are files of further texts that may be negatives. Rows that cannot be used are listed in
    `OUTPUT.dropped.jsonl`; with copy they are written to the output instead, and every row has its
    origin, so that the output stands for its sources. `OUTPUT.work` holds texts and vectors
    during the run, and a killed run resumes from it. Raises InputError for sources that are not
    pairs, before any work.

    >>> import numpy as np
    >>> from pathlib import Path
    >>> from opengte.data import MiningModels, MiningSettings, SourceSpec
    >>> _ = Path("faq.csv").write_text("query,answer\ncat food,meat\ncat age,two\ndog,barks\n")
    >>> def embed(texts):
    ...     return np.ones((len(texts), 2), np.float32)
    >>> models = MiningModels(embed, embed, identity={"model": "constant"})
    >>> settings = MiningSettings(count=1, first=1, margin=None)
    >>> report = mine_hard_negatives(
    ...     [SourceSpec("faq", (Path("faq.csv"),))], Path("mined.jsonl"), models, settings)
    >>> report.rows, dict(report.negatives)  # each row got one negative
    (3, {1: 3})
    """
    writer.check_output_path(output)
    places = [(spec, _pairs(spec)) for spec in specs]
    work = output.with_name(output.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    mined, collection = MiningReport(), MiningCorpus(work)
    try:
        for row in _rows(places, cleaning, mined.dropped):
            if isinstance(row, Example):
                collection.add(row)
        if not len(collection.queries):
            raise InputError(f"no row of {_named(specs)} can be used; expected pairs")
        clean = TextCleaner(cleaning, Counter())
        for path in corpus:
            for text in map(clean, all_texts(path)):
                if text:
                    collection.add_text(text)
        candidates = _candidates(collection, work, models, settings, mined, advance)
        rows = _with_negatives(places, cleaning, collection, candidates, models, settings, mined)
        if copy:
            writer.write_rows(output, rows)
        else:
            _write(output, rows, settings)
    finally:
        collection.close()
    shutil.rmtree(work)
    return mined


def _write(output: Path, rows: Iterator[Example | UnusableRow], settings: MiningSettings) -> None:
    """Write the rows with negatives, and beside them what was dropped, if anything was."""
    aside = dropped_file(output)
    with atomic_write(aside) as part, part.open("w", encoding="utf-8") as file:

        def usable() -> Iterator[Example]:
            for row in rows:
                if isinstance(row, UnusableRow):
                    file.write(json.dumps(dropped_row_record(BAD, row)) + "\n")
                else:
                    yield row

        writer.write_examples(output, usable(), settings.count)
    if not aside.stat().st_size:
        aside.unlink()


def dropped_file(output: Path) -> Path:
    """Return where the rows are listed that mining could not use."""
    return output.with_name(f"{output.name}.dropped.jsonl")


def _named(specs: Sequence[SourceSpec]) -> str:
    return ", ".join(f"`{spec.name}`" for spec in specs)


def _pairs(spec: SourceSpec) -> ColumnMapping:
    columns = detect_columns(spec.paths, spec.columns)
    if columns.kind != "pairs":
        raise InputError(
            f"source `{spec.name}` holds {columns.kind} ({columns}); negatives are mined for "
            "pairs. Name the columns of query and positive."
        )
    return columns


def _rows(
    places: Sequence[tuple[SourceSpec, ColumnMapping]],
    cleaning: CleaningSettings,
    dropped: Counter[str],
) -> Iterator[Example | UnusableRow]:
    """Yield rows cleaned, without duplicate texts in a row; unusable ones say why they are."""
    clean, rules = TextCleaner(cleaning, Counter()), FilterRules()
    for spec, columns in places:
        for item in read_examples(spec.paths, columns):
            if isinstance(item, UnusableRow):
                dropped[BAD] += 1
                yield item
                continue
            example = clean_example(item, clean)
            outcome = rules.apply(example, ExampleHashes.of(example), Counter())
            if isinstance(outcome, str):
                dropped[outcome] += 1
                yield UnusableRow(item.origin, outcome)
            else:
                yield outcome[0]


def _candidates(
    collection: MiningCorpus,
    work: Path,
    models: MiningModels,
    settings: MiningSettings,
    mined: MiningReport,
    advance: Advance,
) -> Any:
    """Return the numbers of each query's candidates, nearest first, padded with -1."""
    first, second = collection.identity(models.identity)
    queries = disk_store.embed_to_disk(
        collection.queries, models.queries, work / "queries.f32", first, advance
    )
    corpus = disk_store.embed_to_disk(
        collection.corpus, models.documents, work / "corpus.f32", second, advance
    )
    shape = (len(queries), settings.last)
    candidates = np.lib.format.open_memmap(work / "candidates.npy", "w+", np.int64, shape)
    candidates[:] = -1
    for number, _, kept in mine_candidates(
        collection, queries, corpus, settings, mined, models.score
    ):
        candidates[number, : len(kept)] = [one.number for one in kept]
    return candidates


def _with_negatives(
    places: Sequence[tuple[SourceSpec, ColumnMapping]],
    cleaning: CleaningSettings,
    collection: MiningCorpus,
    found: Any,
    models: MiningModels,
    settings: MiningSettings,
    mined: MiningReport,
) -> Iterator[Example | UnusableRow]:
    hashes = list(collection.corpus_numbers)
    for example in _rows(places, cleaning, Counter()):
        if isinstance(example, UnusableRow) or (settings.only_missing and example.negatives):
            yield example
            continue
        query = collection.query_numbers[ExampleHashes.of(example).query]
        numbers = [number for number in found[query].tolist() if number >= 0]
        chosen = draw_negatives(example, [(n, hashes[n]) for n in numbers], settings, mined)
        texts = [collection.corpus[number] for number in chosen]
        full = replace(example, negatives=(*example.negatives, *texts), scores=None)
        if models.write_scores and models.score is not None:
            values = models.score(full.query, full.documents)
            full = replace(full, scores=tuple(map(float, values)))
        yield full
