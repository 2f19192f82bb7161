"""One window of rows: cleaned, filtered, tokenised, and added to the open shard."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from opengte.data.cleaning import consistency
from opengte.data.cleaning.consistency import ConsistencyFilter, RandomPool
from opengte.data.cleaning.filters import (
    BAD,
    DUPLICATE,
    INCONSISTENT,
    ExampleHashes,
    FilterRules,
    LengthLimits,
    clean_example,
    select_documents,
)
from opengte.data.cleaning.report import Tally
from opengte.data.cleaning.text_cleaning import DEFAULT_CLEANING, CleaningSettings, TextCleaner
from opengte.data.examples import Example, UnusableRow, joint_hash
from opengte.data.preparation.source_tokenizer import SourceTokenizer, text_key
from opengte.data.reading.column_mapping import ColumnMapping
from opengte.data.reading.sources import SourceSpec
from opengte.data.shards.format import ShardBuilder
from opengte.types import Ints

Drop = Callable[[str, Example | UnusableRow], None]
Row = tuple[Example, ExampleHashes]
Known = dict[bytes, tuple[Ints, int, bool]]  # key of a text -> ids, tokens before the cut, cut


@dataclass(frozen=True)
class PreparationSettings:
    """Limits, cleaning, whether duplicates stay, and the maximum size of a shard.

    >>> PreparationSettings(LengthLimits(min_characters=10), duplicates=True).shard_rows
    262144
    """

    limits: LengthLimits = LengthLimits()
    cleaning: CleaningSettings = DEFAULT_CLEANING
    duplicates: bool = False  # whether duplicate rows stay
    shard_rows: int = 2**18
    shard_tokens: int = 2**25


@dataclass(frozen=True, eq=False)
class PreparationRun:
    """What all windows of a run share."""

    folder: Path
    settings: PreparationSettings
    rules: FilterRules
    encoding: SourceTokenizer
    consistent: ConsistencyFilter | None
    seen: set[bytes]
    advance: Callable[[int], None]


@dataclass(eq=False)
class OpenShard:
    """The shard that is being filled, and the counts of rows since the last one."""

    builder: ShardBuilder = field(default_factory=ShardBuilder)
    tally: Tally = field(default_factory=Tally)
    pool_from: Counter[str] = field(default_factory=Counter)
    items: int = 0


@dataclass(frozen=True, eq=False)
class SourceState:
    """The source that is being read."""

    spec: SourceSpec
    columns: ColumnMapping
    prefixes: tuple[str, str]
    files: dict[str, int]
    labels: dict[str, int]
    pool: RandomPool | None


def add_window(
    run: PreparationRun,
    place: SourceState,
    part: OpenShard,
    window: list[Example | UnusableRow],
    dropped: IO[bytes],
) -> None:
    """Add the rows of a window that pass all filters to the shard."""
    tally = part.tally
    clean = TextCleaner(run.settings.cleaning, tally.repaired)

    def drop(rule: str, row: Example | UnusableRow) -> None:
        record = tally.drop(rule, row)
        dropped.write(json.dumps({"source": place.spec.name, **record}).encode() + b"\n")

    part.items += len(window)
    tally.read += len(window)
    rows: list[tuple[Example, ExampleHashes]] = []
    for item in window:
        if isinstance(item, UnusableRow):
            drop(BAD, item)
            continue
        one = clean_example(item, clean)
        outcome = run.rules.apply(one, ExampleHashes.of(one), tally.texts)
        if isinstance(outcome, str):
            drop(outcome, item)
        else:
            rows.append(outcome)
    if place.columns.kind == "texts":
        _add_texts(run, place, part, _unseen(run, part, rows, drop), drop)
        return
    known = _tokenise(run, place, part, rows)
    fit = list(_fitting(run, rows, known, tally, drop))
    fresh = _unseen(run, part, fit, drop)
    for example, hashed in _consistent(run, place, fresh, tally, drop):
        _add(place, part, example, hashed, known)


def _tokenise(
    run: PreparationRun, place: SourceState, part: OpenShard, rows: Iterable[Row]
) -> Known:
    """Return the ids of all texts of a window, each text of one side once."""
    known: Known = {}
    queries = {text_key(e.query, True): e.query for e, _ in rows}
    documents = {text_key(text, False): text for e, _ in rows for text in e.documents}
    for texts, prefix, side in (
        (queries, place.prefixes[0], "query"),
        (documents, place.prefixes[1], "document"),
    ):
        if texts:
            encoded = run.encoding.encode(list(texts.values()), prefix, side == "query")
            known.update(zip(texts, encoded, strict=True))
            part.pool_from[side] = max(part.pool_from[side], encoded.pool_from)
    return known


def _fitting(
    run: PreparationRun, rows: Iterable[Row], known: Known, tally: Tally, drop: Drop
) -> Iterator[Row]:
    """Yield the rows whose texts are within the limits of tokens."""
    limits = run.settings.limits
    for example, hashed in rows:
        rules = [limits.tokens(known[text_key(t, False)][1]) for t in example.documents]
        rule = limits.tokens(known[text_key(example.query, True)][1])
        kept = [index for index, broken in enumerate(rules) if broken is None]
        positives = sum(index < len(example.positives) for index in kept)
        if rule is None and example.label is None and example.positives and positives == 0:
            rule = next(broken for broken in rules if broken)
        if rule is not None:
            drop(rule, example)
        elif len(kept) == len(rules) or example.label is not None:
            yield example, hashed
        else:
            for index in set(range(len(rules))) - set(kept):
                side = "positive" if index < len(example.positives) else "negative"
                tally.texts[f"{side}: {rules[index]}"] += 1
            yield select_documents(example, hashed, kept, positives)


def _unseen(run: PreparationRun, part: OpenShard, rows: Iterable[Row], drop: Drop) -> list[Row]:
    """Return the rows that no source has had before (deduplication)."""
    fresh = []
    for example, hashed in rows:
        key = hashed.key(example)
        if key in run.seen and not run.settings.duplicates:
            drop(DUPLICATE, example)
            continue
        if key not in run.seen:
            run.seen.add(key)
            part.builder.seen.append(key)
        fresh.append((example, hashed))
    return fresh


def _consistent(
    run: PreparationRun, place: SourceState, rows: list[Row], tally: Tally, drop: Drop
) -> Iterator[Row]:
    """Yield the rows with those positives that pass the consistency filter."""
    asked, pool = run.consistent, place.pool
    if asked is None or pool is None or not rows:
        yield from rows
        return
    flat = [(i, j) for i, (e, _) in enumerate(rows) for j in range(len(e.positives))]
    queries = asked.queries([e.query for e, _ in rows], place.spec.instruction)
    positives = asked.documents([rows[i][0].positives[j] for i, j in flat])
    own = [frozenset((h.query, *h.documents[: len(e.positives)])) for e, h in rows]
    ranks = consistency.positive_ranks(
        queries[[i for i, _ in flat]], positives, [own[i] for i, _ in flat], pool
    )
    good = {pair for pair, rank in zip(flat, ranks.tolist(), strict=True) if rank <= asked.keep}
    for i, (example, hashed) in enumerate(rows):
        count = len(example.positives)
        kept = [j for j in range(len(example.documents)) if j >= count or (i, j) in good]
        positive = sum(j < count for j in kept)
        if positive == 0:
            drop(INCONSISTENT, example)
        elif positive == count:
            yield example, hashed
        else:
            tally.texts[f"positive: {INCONSISTENT}"] += count - positive
            yield select_documents(example, hashed, kept, positive)


def _add(
    place: SourceState, part: OpenShard, example: Example, hashed: ExampleHashes, known: Known
) -> None:
    """Add a row, and those of its texts that the shard does not have yet."""
    builder, tally = part.builder, part.tally
    texts = []
    sides = [(example.query, hashed.query, True)]
    sides += zip(example.documents, hashed.documents, [False] * len(hashed.documents), strict=True)
    for text, own, query in sides:
        key = text_key(text, query)
        number = builder.numbers.get(key)
        if number is None:
            ids, _, cut = known[key]
            tally.truncated["query" if query else "document"] += cut
            number = builder.text(key, ids, own)
        texts.append(number)
    label = None
    if example.label is not None:
        label = place.labels.setdefault(example.label, len(place.labels))
    where = place.files[example.origin.file], example.origin.row
    builder.row(texts, len(example.positives), example.scores, label, where)
    tally.kept += 1


def _add_texts(
    run: PreparationRun, place: SourceState, part: OpenShard, rows: Iterable[Row], drop: Drop
) -> None:
    """Add raw texts, one row for each piece that fits the model."""
    for example, hashed in rows:
        pieces = run.encoding.pieces(example.query)
        if rule := run.settings.limits.tokens(sum(map(len, pieces))):
            drop(rule, example)
            continue
        where = place.files[example.origin.file], example.origin.row
        for number, ids in enumerate(pieces):
            own = hashed.query if number == 0 else joint_hash([hashed.query, b"%d" % number])
            part.builder.row([part.builder.text(own, ids, own)], 0, None, None, where)
        part.tally.kept += 1
