"""From rows to shards: cleaning, filters, tokens, the report, and a run that is killed."""

import itertools
import json
import pkgutil
from pathlib import Path

import numpy as np
import pytest

from opengte.data.cleaning.filters import LengthLimits
from opengte.data.preparation.prepare import hash_texts, prepare
from opengte.data.preparation.window import PreparationSettings
from opengte.data.reading.column_mapping import ColumnMapping
from opengte.data.reading.sources import SourceSpec
from opengte.errors import CapabilityError, InputError
from opengte.tokenization import Prompts
from tests.support.tokenizers_for_tests import save_qwen3, save_unigram
from tests.support.training_data import (
    dataset,
    encoding,
    made,
    pairs,
    rows_of,
    tokenizer,
    words,
    write_lines,
)


@pytest.mark.parametrize("save", [None, save_unigram, save_qwen3])
def test_shards_hold_what_the_tokenizer_gives(tmp_path, save):
    rows = pairs(70, negatives=3)
    path = write_lines(tmp_path / "a.jsonl", rows)
    own = tokenizer(tmp_path) if save is None else tokenizer(tmp_path, save)
    prompts = Prompts(query="what is ", document="passage: ")
    data, _ = made(
        tmp_path,
        SourceSpec("a", (path,)),
        encoding=encoding(tmp_path, tokenizer=own, prompts=prompts, document_tokens=10),
        settings=PreparationSettings(shard_rows=16),
    )

    def ids(text: str, side: str, length: int) -> list[int]:
        prefix = prompts.prefix(side)
        return own.encode([text], prompt=prefix, max_length=length).batch.ids.tolist()

    assert rows_of(data.sources[0]) == [
        (
            ids(row["query"], "query", 24),
            [ids(row["positive"], "document", 10)],
            [ids(text, "document", 10) for text in row["negative"]],
        )
        for row in rows
    ]
    assert data.sources[0].origin(37) == (str(path), 38)
    assert data.tallies["a"].truncated["document"] > 0


def test_the_order_of_windows_and_shards_changes_no_row(tmp_path, monkeypatch):
    rows = pairs(90, negatives=2)
    (tmp_path / "whole").mkdir()
    whole = rows_of(dataset(tmp_path / "whole", rows).sources[0])
    for window, size in ((1, 1), (7, 20), (1000, 13)):
        folder = tmp_path / f"{window}-{size}"
        folder.mkdir()
        monkeypatch.setattr("opengte.data.preparation.prepare.WINDOW", window)
        path = write_lines(folder / "rows.jsonl", rows)
        settings = PreparationSettings(shard_rows=size)
        data, _ = made(folder, SourceSpec("rows", (path,)), settings=settings)
        assert rows_of(data.sources[0]) == whole


def test_a_text_is_held_once_a_shard(tmp_path):
    rows = [{"query": f"q {i}", "positive": "the same text"} for i in range(50)]
    (source,) = dataset(tmp_path, rows).sources
    assert len(source.shards[0].hashes) == 51


def test_duplicates_go_across_sources_and_excluded_texts_everywhere(tmp_path):
    rows = pairs(40)
    first = write_lines(tmp_path / "a.jsonl", [*rows[:20], *rows[:5]])
    second = write_lines(tmp_path / "b.jsonl", [{**rows[3], "query": "WHAT  is 3"}, *rows[20:]])
    data, done = made(
        tmp_path,
        SourceSpec("a", (first,)),
        SourceSpec("b", (second,)),
        excluded=hash_texts([rows[7]["query"].upper(), rows[30]["positive"]]),
    )
    assert [source.rows for source in data.sources] == [19, 19]
    assert done.tallies["a"].dropped == {"duplicate row": 5, "in the excluded texts": 1}
    assert done.tallies["b"].dropped == {"duplicate row": 1, "in the excluded texts": 1}


def test_duplicates_may_be_kept(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", pairs(4) * 2)
    data, _ = made(
        tmp_path, SourceSpec("a", (path,)), settings=PreparationSettings(duplicates=True)
    )
    assert data.rows == 8


def test_limits_of_tokens(tmp_path):
    rows = [
        {
            "query": "what is",
            "positive": [words(1, 20), "dog sat"],
            "negative": [words(2, 30), "a"],
        },
        {"query": "what is", "positive": words(3, 20)},
        {"query": words(4, 20), "positive": "cat"},
    ]
    path = write_lines(tmp_path / "a.jsonl", rows)
    data, done = made(
        tmp_path,
        SourceSpec("a", (path,)),
        settings=PreparationSettings(LengthLimits(max_tokens=12, min_tokens=4)),
    )
    assert data.rows == 1
    own = data.sources[0].get([0])
    assert (len(own.positives), len(own.negatives)) == (1, 0)
    assert done.tallies["a"].dropped == {"too long": 2}
    assert done.tallies["a"].texts == {
        "positive: too long": 1,
        "negative: too long": 1,
        "negative: too short": 1,
    }


def test_raw_texts_become_pieces_that_fit(tmp_path):
    texts = [words(i, 3 + 17 * i) for i in range(6)]
    path = tmp_path / "a.txt"
    path.write_text("\n".join(texts))
    own = tokenizer(tmp_path)
    data, done = made(
        tmp_path, SourceSpec("a", (path,)), encoding=encoding(tmp_path, tokenizer=own)
    )
    (source,) = data.sources
    assert (source.kind, source.in_batch_negatives) == ("texts", False)
    found: dict[int, list[list[int]]] = {}
    for row, (ids, positives, _) in enumerate(rows_of(source)):
        assert positives == []
        assert len(ids) <= 32
        found.setdefault(source.origin(row)[1] - 1, []).append(ids)
    for number, text in enumerate(texts):
        body = own.encode([text], max_length=9999).batch.ids[1:-1].tolist()
        assert [token for piece in found[number] for token in piece[1:-1]] == body
        assert all(piece[0] == own.named["cls"] for piece in found[number])
        assert all(len(piece) == 32 for piece in found[number][:-1])
    assert done.tallies["a"].kept == 6


def test_instructions_go_before_queries_only(tmp_path):
    prompts = Prompts(template="Do {instruction}: ", default_instruction="the rest")
    own = tokenizer(tmp_path)
    settings = encoding(tmp_path, tokenizer=own, prompts=prompts, query_tokens=99)
    path = write_lines(tmp_path / "a.jsonl", [{"query": "cat", "positive": "dog"}])
    score = write_lines(
        tmp_path / "s.jsonl", [{"sentence1": "red", "sentence2": "blue", "score": 1}]
    )
    data, _ = made(
        tmp_path,
        SourceSpec("a", (path,), instruction="find"),
        SourceSpec("b", (score,), instruction="compare"),
        SourceSpec("c", (write_lines(tmp_path / "c.jsonl", [{"query": "x", "positive": "y"}]),)),
        encoding=settings,
    )
    texts = [[own.decode(part) for part in (q, *p)] for s in data.sources for q, p, _ in rows_of(s)]
    assert [[text.split("]", 1)[1][1:-6] for text in row] for row in texts] == [
        ["do find : cat", "dog"],
        ["do compare : red", "do compare : blue"],
        ["do the rest : x", "y"],
    ]
    assert [s.in_batch_negatives for s in data.sources] == [True, False, True]
    assert data.sources[0].instruction == "find"


def test_an_instruction_for_a_model_or_data_without_any(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", pairs(3))
    with pytest.raises(CapabilityError, match="takes none"):
        made(tmp_path, SourceSpec("a", (path,), instruction="find"))
    (tmp_path / "t.txt").write_text("text")
    with pytest.raises(InputError, match="source `t`.*raw texts, which take no instruction"):
        made(tmp_path, SourceSpec("t", (tmp_path / "t.txt",), instruction="find"))


def test_the_report_says_what_was_dropped_and_where(tmp_path):
    path = tmp_path / "a.jsonl"
    write_lines(path, [*pairs(9), {"query": "same", "positive": "Same"}, *pairs(2), {"query": 1}])
    _, done = made(tmp_path, SourceSpec("a", (path,)))
    tally = done.tallies["a"]
    assert (tally.read, tally.kept) == (13, 9)
    assert tally.dropped == {"query equals positive": 1, "duplicate row": 2, "unusable row": 1}
    page = (tmp_path / "out" / "report.md").read_text()
    assert f"{path}:10: “same” → “Same”" in page
    assert f"{path}:13: `query` is a number; expected a string" in page
    assert "| a | 13 | 9 | 4 | 0 | 0 |" in page
    assert json.loads((tmp_path / "out" / "report.json").read_text())["a"] == tally.record()
    lines = (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()
    assert sorted((json.loads(line)["row"], json.loads(line)["rule"]) for line in lines) == [
        (10, "query equals positive"),
        (11, "duplicate row"),
        (12, "duplicate row"),
        (13, "unusable row"),
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Killed(BaseException):
    pass


def kill_at(patched: pytest.MonkeyPatch, target: str, count: int) -> None:
    """Raise Killed instead of the count-th call."""
    module, name = target.rsplit(".", 1)
    owner = pkgutil.resolve_name(module)
    inner, left = getattr(owner, name), itertools.count(count - 1, -1)

    def counted(*arguments: object, **options: object) -> object:
        if next(left) == 0:
            raise Killed
        return inner(*arguments, **options)

    patched.setattr(owner, name, counted)


PLACES = {  # where a run is killed, and a part of how often it comes by
    "opengte.data.preparation.prepare.add_window": 25,
    "opengte.atomic_files.os.replace": 9,
    "opengte.atomic_files.os.fsync": 20,
    "opengte.journal:Journal.record": 9,
    "opengte.data.cleaning.report.markdown_report": 0,
    "opengte.data.preparation.window.json.dumps": 15,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("seed", range(2))
def test_a_killed_run_continues_and_writes_the_same_bytes(tmp_path, monkeypatch, place, seed):
    monkeypatch.setattr("opengte.data.preparation.prepare.WINDOW", 8)
    rows = pairs(120, negatives=2)
    texts = [{"text": f"text {i}", "label": i % 3} for i in range(50)]
    one = write_lines(tmp_path / "a.jsonl", [*rows[:70], *rows[:9], {"query": 1}, *rows[60:75]])
    two = write_lines(tmp_path / "b.jsonl", texts)
    three = write_lines(tmp_path / "c.jsonl", [*rows[40:], {"query": "x", "positive": "X"}])
    specs = [SourceSpec("a", (one,)), SourceSpec("b", (two,)), SourceSpec("c", (three,))]
    options = {"encoding": encoding(tmp_path), "settings": PreparationSettings(shard_rows=20)}
    prepare(specs, tmp_path / "whole", **options)
    expected = contents(tmp_path / "whole")
    assert len(expected) > 10

    random, folder, killed = np.random.default_rng(seed), tmp_path / "out", 0
    while killed < 4:
        with monkeypatch.context() as patched:
            kill_at(patched, place, int(random.integers(1, PLACES[place] // (killed + 1) + 2)))
            try:
                prepare(specs, folder, **options)
                break
            except Killed:
                killed += 1
    prepare(specs, folder, **options)
    assert killed
    assert contents(folder) == expected


def test_a_finished_folder_is_left_alone_and_another_run_refused(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", pairs(20))
    specs, own = [SourceSpec("a", (path,))], encoding(tmp_path)
    first = prepare(specs, tmp_path / "out", own)
    before = contents(tmp_path / "out")
    again = prepare(specs, tmp_path / "out", own, advance=lambda rows: pytest.fail("read again"))
    assert again.tallies["a"].record() == first.tallies["a"].record()
    shorter = encoding(tmp_path, tokenizer=own.tokenizer, document_tokens=9)
    with pytest.raises(InputError, match=r"another run: tokens\[1\] was 32, is now 9"):
        prepare(specs, tmp_path / "out", shorter)
    with pytest.raises(InputError, match="settings.duplicates was false, is now true"):
        prepare(specs, tmp_path / "out", own, PreparationSettings(duplicates=True))
    assert contents(tmp_path / "out") == before
    prepare(specs, tmp_path / "out", shorter, restart=True)
    assert contents(tmp_path / "out") != before


def test_restart_leaves_files_of_others_alone(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", pairs(20))
    own = encoding(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    prepare([SourceSpec("a", (path,))], tmp_path / "out", own)
    prepare([SourceSpec("b", (path,))], tmp_path / "out", own, restart=True)
    names = set(contents(tmp_path / "out"))
    assert "notes.txt" in names
    assert {name for name in names if name.endswith(".shard")} == {"shards/000-b-00000.shard"}


def test_two_runs_on_one_folder_are_told_apart(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", pairs(20))
    own = encoding(tmp_path)

    def other(rows: int) -> None:
        with pytest.raises(InputError, match="in use"):
            prepare([SourceSpec("a", (path,))], tmp_path / "out", own)

    prepare([SourceSpec("a", (path,))], tmp_path / "out", own, advance=other)


def test_sources_without_any_row(tmp_path):
    good = write_lines(tmp_path / "a.jsonl", pairs(5))
    empty = write_lines(tmp_path / "b.jsonl", [{"query": "x", "positive": "X"}])
    data, done = made(tmp_path, SourceSpec("a", (good,)), SourceSpec("b", (empty,)))
    assert done.empty == ("b",)
    assert [source.name for source in data.sources] == ["a"]
    with pytest.raises(InputError, match="no row is left of any source.*report.md. says why"):
        prepare([SourceSpec("b", (empty,))], tmp_path / "none", encoding(tmp_path))
    assert "query equals positive" in (tmp_path / "none" / "report.md").read_text()


def test_sources_that_cannot_be_used_are_refused_before_anything_is_written(tmp_path):
    good = write_lines(tmp_path / "a.jsonl", pairs(5))
    wrong = ColumnMapping(query="quest", positive=("positive",))
    with pytest.raises(InputError, match="source `b`: .*column `quest` is not there.*`query`"):
        made(tmp_path, SourceSpec("a", (good,)), SourceSpec("b", (good,), wrong))
    with pytest.raises(InputError, match="2 sources are called `a`"):
        made(tmp_path, SourceSpec("a", (good,)), SourceSpec("a", (good,)))
    with pytest.raises(InputError, match="there are no sources"):
        made(tmp_path)
    assert not (tmp_path / "out").exists()
