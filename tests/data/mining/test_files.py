"""Hard negatives: every rule held against a slow search that reads like its description."""

import csv
import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from opengte.data.examples import Example, normalised_text
from opengte.data.mining import disk_store
from opengte.data.mining.files import MiningModels, mine_hard_negatives
from opengte.data.mining.hard_negatives import (
    MiningSettings,
)
from opengte.data.reading.column_mapping import ColumnMapping
from opengte.data.reading.sources import SourceSpec, detect_columns, read_examples
from opengte.errors import InputError
from tests.support.mining import embed, number, random_rows, score, slow_candidates
from tests.support.training_data import write_lines


def circle(texts) -> np.ndarray:
    """Embed texts by their numbers, so that they can be put where a test wants them."""
    angles = np.array([number(text) for text in texts]) / 50
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


MODELS = MiningModels(embed, embed, {"model": "circle"})


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
    aside = f"{name}.dropped.jsonl"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", name, aside]
    line = json.loads((tmp_path / aside).read_text())
    assert (line["file"], line["row"]) == (str(path), 51)
    assert line["reason"] == "has no `positive`"
    assert mined.dropped == {"unusable row": 1}
    found = read(tmp_path / name)
    assert len(found) == mined.rows == 50
    for index, row in enumerate(rows):  # a negative that is the query is no negative
        own = [t for t in row.negatives if normalised_text(t) != normalised_text(row.query)]
        rows[index] = replace(row, negatives=tuple(own))
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
