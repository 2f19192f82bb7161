"""Hard negatives: every rule held against a slow search that reads like its description."""

import csv
import gzip
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from opengte.data.examples import Example, Origin, normalised_text
from opengte.data.mining import disk_store
from opengte.data.mining.files import MiningModels, mine_hard_negatives
from opengte.data.mining.hard_negatives import (
    MiningSettings,
)
from opengte.data.reading.column_mapping import ColumnMapping
from opengte.data.reading.sources import SourceSpec, detect_columns, read_examples
from opengte.errors import InputError
from tests.support.training_data import write_lines


def number(text: str) -> float:
    return sum(float(word) for word in text.split() if word[-1].isdigit())


def circle(texts) -> np.ndarray:
    """Embed texts by their numbers, so that they can be put where a test wants them."""
    angles = np.array([number(text) for text in texts]) / 50
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def vector(text: str) -> np.ndarray:
    """Embed a text as whole numbers: scores are exact however they are computed, with many ties."""
    twice = int(2 * number(text))
    return np.array([twice % 10 - 3, twice // 10 % 10 - 4, 1 + twice // 100], dtype=np.float32)


def embed(texts) -> np.ndarray:
    return np.stack([vector(text) for text in texts])


def score(query: str, texts) -> np.ndarray:
    """Rerank by letters in common."""
    return np.array([len(set(query) & set(text)) for text in texts], dtype=np.float32)


MODELS = MiningModels(embed, embed, {"model": "circle"})


def slow_candidates(rows, query, options, rerank=None) -> tuple[list[str], Counter]:
    """Return the candidates of a query, and what became of the other texts."""
    counts: Counter[str] = Counter()
    corpus = list(dict.fromkeys(normalised_text(t) for row in rows for t in row.documents))
    original = {normalised_text(t): t for row in reversed(rows) for t in row.documents[::-1]}
    answers = {
        normalised_text(text)
        for row in rows
        if normalised_text(row.query) == normalised_text(query)
        for text in row.positives
    }
    values = {text: float(vector(query) @ vector(original[text])) for text in corpus}
    best = max(values[text] for text in answers)
    ranked = sorted(corpus, key=lambda text: (-values[text], corpus.index(text)))
    rank, kept = 0, []
    for text in ranked:
        if text in answers or text == normalised_text(query):
            continue
        rank += 1
        if rank < options.first or rank > options.last:
            continue
        if options.margin is not None and values[text] > best - (1 - options.margin) * abs(best):
            counts["too near for the margin"] += 1
            continue
        kept.append(text)
    if rerank is not None and kept:
        limit = max(rerank(query, [original[t] for t in answers])) - options.reranker_margin
        good = [text for text in kept if rerank(query, [original[text]])[0] < limit]
        counts["refused by the reranker"] += len(kept) - len(good)
        kept = good
    return kept, counts


def random_rows(seed: int, count: int) -> list[Example]:
    random = np.random.default_rng(seed)

    def text(kind: str) -> str:
        return f"{kind} {random.integers(0, 99) + random.integers(0, 2) / 2}"

    rows = []
    for i in range(count):
        query = text("Ask" if random.random() < 0.5 else "ask")
        positives = tuple({normalised_text(t): t for t in [text("p"), text("P")]}.values())
        texts = {normalised_text(t): t for t in [text("n"), query if i % 7 == 0 else text("p")]}
        others = tuple(t for n, t in texts.items() if n not in map(normalised_text, positives))
        rows.append(Example(Origin("f", i), query, positives, others))
    return rows


def read(path: Path) -> list[Example]:
    return list(read_examples((path,), detect_columns((path,), ColumnMapping())))


def as_rows(rows: list[Example]) -> list[dict]:
    return [
        {"query": r.query, "positive": list(r.positives), "negative": list(r.negatives)}
        for r in rows
    ]


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.parquet"])
def test_mined_files_are_rows_with_more_negatives(tmp_path, name):
    rows = random_rows(1, 50)
    path = write_lines(tmp_path / "a.jsonl", [*as_rows(rows), {"query": "x"}])
    options = MiningSettings(count=3, first=2, last=15)
    mined = mine_hard_negatives([SourceSpec("a", (path,))], tmp_path / name, MODELS, options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", name]
    assert mined.dropped == {"unusable row": 1}
    found = read(tmp_path / name)
    assert len(found) == mined.rows == 50
    for number, row in enumerate(rows):  # a negative that is the query is no negative
        own = [t for t in row.negatives if normalised_text(t) != normalised_text(row.query)]
        rows[number] = replace(row, negatives=tuple(own))
    for before, after in zip(rows, found, strict=True):
        assert (after.query, after.positives) == (before.query, before.positives)
        kept = before.negatives
        assert after.negatives[: len(kept)] == kept
        new = [normalised_text(text) for text in after.negatives[len(kept) :]]
        candidates, _ = slow_candidates(rows, before.query, options)
        assert len(new) == len(set(new)) <= 3
        assert set(new) <= set(candidates) - set(map(normalised_text, before.documents))
        expected = [text for text in candidates if text in new]
        assert new == expected
    assert sum(mined.negatives.values()) == 50


def test_the_same_run_writes_the_same_bytes(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", as_rows(random_rows(2, 30)))
    for name in ("1.jsonl.gz", "2.jsonl.gz"):
        mine_hard_negatives(
            [SourceSpec("a", (path,))], tmp_path / name, MODELS, MiningSettings(count=2)
        )
    first, second = ((tmp_path / f"{n}.jsonl.gz").read_bytes() for n in (1, 2))
    assert first == second
    assert gzip.decompress(first).count(b"\n") == 30


def test_csv_has_a_column_for_each_negative(tmp_path):
    rows = [{"query": f"q {i}", "positive": f'a "{i}"\n{i}'} for i in range(9)]
    path = write_lines(tmp_path / "a.jsonl", rows)
    mine_hard_negatives(
        [SourceSpec("a", (path,))], tmp_path / "o.csv", MODELS, MiningSettings(count=2, margin=None)
    )
    with (tmp_path / "o.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == ["query", "positive", "negative_1", "negative_2"]
    assert [row["positive"] for row in found] == [row["positive"] for row in rows]
    assert all(len(one.negatives) == 2 for one in read(tmp_path / "o.csv"))
    write_lines(path, [{"query": "q 1", "positive": ["a 1", "b 1"]}])
    with pytest.raises(InputError, match=r"a.jsonl:1 has 2 positives.*Write .jsonl or .parquet"):
        mine_hard_negatives(
            [SourceSpec("a", (path,))], tmp_path / "p.csv", MODELS, MiningSettings(count=2)
        )
    assert not (tmp_path / "p.csv").exists()


def test_answers_of_all_rows_and_sources_are_respected(tmp_path):
    first = write_lines(tmp_path / "a.jsonl", [{"query": "what 1", "positive": "yes 1"}])
    rows = [
        {"query": "WHAT  1", "positive": "also 1.1"},
        {"query": "other 9", "positive": "no 1.2"},
    ]
    second = write_lines(tmp_path / "b.jsonl", rows)
    corpus = write_lines(tmp_path / "c.jsonl", ["What 1", "YES 1", "far 2", ""])
    options = MiningSettings(count=9, first=1, margin=None)
    out = tmp_path / "o.jsonl"
    specs = [SourceSpec("a", (first,)), SourceSpec("b", (second,))]
    models = MiningModels(circle, circle, {})
    mined = mine_hard_negatives(specs, out, models, options, corpus=[corpus])
    assert [row.negatives for row in read(out)] == [
        ("no 1.2", "far 2"),
        ("no 1.2", "far 2"),
        ("far 2", "also 1.1", "yes 1", "What 1"),
    ]
    assert mined.candidates["answers the query"] == 3
    assert mined.candidates["is the query"] == 1
    assert (mined.queries, mined.corpus) == (2, 5)


def test_scores_of_the_reranker_are_written_for_distillation(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", as_rows(random_rows(3, 20)))
    models = MiningModels(embed, embed, {}, score, write_scores=True)
    mine_hard_negatives(
        [SourceSpec("a", (path,))], tmp_path / "o.jsonl", models, MiningSettings(count=2)
    )
    for row in read(tmp_path / "o.jsonl"):
        assert row.scores == tuple(map(float, score(row.query, row.documents)))


def test_only_pairs_are_mined(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"text": "a", "label": 1}])
    with pytest.raises(InputError, match="source `a` holds labelled .* mined for pairs"):
        mine_hard_negatives(
            [SourceSpec("a", (path,))], tmp_path / "o.jsonl", MODELS, MiningSettings()
        )
    path = write_lines(tmp_path / "b.jsonl", [{"query": "a 1", "positive": "A 1"}])
    with pytest.raises(InputError, match="no row of `b` can be used"):
        mine_hard_negatives(
            [SourceSpec("b", (path,))], tmp_path / "o.jsonl", MODELS, MiningSettings()
        )
    with pytest.raises(InputError, match="unknown suffix; expected one of .jsonl"):
        mine_hard_negatives(
            [SourceSpec("b", (path,))], tmp_path / "o.txt", MODELS, MiningSettings()
        )


class Killed(BaseException):
    pass


def test_a_killed_run_takes_up_its_vectors(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_store, "BLOCK", 4)
    path = write_lines(tmp_path / "a.jsonl", as_rows(random_rows(4, 40)))
    specs, options = [SourceSpec("a", (path,))], MiningSettings(count=2)
    mine_hard_negatives(specs, tmp_path / "whole.jsonl", MODELS, options)
    seen: list[str] = []
    left = 15

    def dying(texts):
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        seen.extend(texts)
        return embed(texts)

    out = tmp_path / "o.jsonl"
    with pytest.raises(Killed):
        mine_hard_negatives(specs, out, MiningModels(dying, dying, MODELS.identity), options)
    assert not out.exists()
    with (tmp_path / "o.jsonl.work" / "corpus.f32").open("ab") as file:
        file.write(b"abc")  # a write that was cut off
    mined = mine_hard_negatives(specs, out, MiningModels(dying, dying, MODELS.identity), options)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(seen) == mined.queries + mined.corpus  # nothing was embedded twice


def test_a_parquet_file_of_mined_rows_has_lists(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", as_rows(random_rows(5, 9)))
    mine_hard_negatives(
        [SourceSpec("a", (path,))], tmp_path / "o.parquet", MODELS, MiningSettings(count=2)
    )
    schema = pyarrow.parquet.read_schema(tmp_path / "o.parquet")
    assert [str(schema.field(name).type) for name in schema.names] == [
        "string",
        "list<element: string>",
        "list<element: string>",
    ]
    assert json.dumps(pyarrow.parquet.read_table(tmp_path / "o.parquet").to_pylist())
