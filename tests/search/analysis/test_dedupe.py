"""Texts that are there twice: each way against plain loops, and the command."""

import gzip
import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import opengte
from opengte.cli import main
from opengte.embedding_ops import l2_normalise
from opengte.errors import InputError
from opengte.search import minhash
from opengte.search.analysis import dedupe
from opengte.search.kb import KnowledgeBase
from tests.support import kb as helpers
from tests.support.kb import WordEncoder

LONG = " ".join(f"sentence {n} tells of {n * n} things" for n in range(30))


def naive(rows, threshold):
    """Each row looks at every row that is kept before it."""
    keeper, kept = [], []
    for i, row in enumerate(rows):
        scores = [(float(np.float64(row) @ np.float64(rows[j])), -j) for j in kept]
        score, j = max(scores, default=(-2.0, 0))
        if score >= threshold - 1e-6:
            keeper.append(-j)
        else:
            kept.append(i)
            keeper.append(i)
    return keeper


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 70),
    st.integers(2, 5),
    st.floats(0.5, 1.0),
    st.integers(1, 20),
    st.integers(1, 9),
    st.integers(0, 9),
)
def test_meaning_against_plain_loops(n, width, threshold, block, kept, seed):
    rng = np.random.default_rng(seed)
    rows = l2_normalise(rng.standard_normal((n, width)).astype(np.float32))
    old = dedupe.BLOCK, dedupe.KEPT
    dedupe.BLOCK, dedupe.KEPT = block, kept
    try:
        found = dedupe.semantic_duplicates(rows, threshold)
    finally:
        dedupe.BLOCK, dedupe.KEPT = old
    assert found.keeper.tolist() == naive(rows, threshold)
    for row, keeper in enumerate(found.keeper.tolist()):
        alike = 1.0 if row == keeper else float(rows[row] @ rows[keeper])
        assert found.similarity[row] == pytest.approx(alike, abs=1e-5)


def test_equal_vectors_are_one_at_a_threshold_of_one():
    rows = l2_normalise(np.random.default_rng(0).standard_normal((50, 384)).astype(np.float32))
    found = dedupe.semantic_duplicates(np.concatenate([rows, rows[::-1] * 3]), 1.0)
    assert found.kept == list(range(50))
    assert found.keeper[50:].tolist() == list(range(49, -1, -1))
    with pytest.raises(InputError, match="threshold is 0, expected a cosine"):
        dedupe.semantic_duplicates(rows, 0)


def test_a_chain_does_not_pull_in_what_is_far():
    angles = np.radians([0, 20, 40, 60])
    rows = np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    assert dedupe.semantic_duplicates(rows, 0.9).keeper.tolist() == [0, 0, 2, 2]


def test_groups_and_kept():
    found = dedupe.exact_duplicates(["a", "b", "a", "c", "b", "a"])
    assert found.kept == [0, 1, 3]
    assert found.groups == [[0, 2, 5], [1, 4]]
    assert dedupe.exact_duplicates([]).kept == []


def test_white_space_makes_no_difference():
    assert dedupe.text_digest(" a  cat\n") == dedupe.text_digest("a cat")
    assert dedupe.text_digest("a cat") != dedupe.text_digest("A cat")
    assert dedupe.text_digest("\ud800") != dedupe.text_digest("")


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.sampled_from([LONG, LONG + " end", LONG[:-60], "short", "!!", "", "other"]), max_size=12
    )
)
def test_words_against_all_pairs(texts):
    digests = [dedupe.text_digest(text) for text in texts]
    signatures = [minhash.signature(text) for text in texts]
    found = dedupe.near_duplicates(digests, signatures)
    keeper = list(range(len(texts)))
    for i in range(len(texts)):
        for j in range(i):
            near = minhash.signature_similarity(signatures[i], signatures[j]) >= minhash.NEAR
            if near or digests[i] == digests[j]:
                a, b = keeper[i], keeper[j]
                keeper = [min(a, b) if one in (a, b) else one for one in keeper]
    assert found.keeper.tolist() == keeper
    assert all(0.5 < one <= 1 for one in found.similarity)


def test_thousands_of_equal_texts_are_quick():
    texts = [LONG] * 30_000 + ["!!"] * 30_000
    value = minhash.signature(LONG)
    signatures = [value] * 30_000 + [b""] * 30_000
    found = dedupe.near_duplicates([dedupe.text_digest(text) for text in texts], signatures)
    assert found.kept == [0, 30_000]


@pytest.mark.slow
def test_a_hundred_thousand_rows_in_bounded_memory():
    import tracemalloc

    rng = np.random.default_rng(0)
    base = rng.standard_normal((20_000, 64)).astype(np.float32)
    rows = l2_normalise(np.concatenate([base] * 5) + 1e-3)
    tracemalloc.start()
    found = dedupe.semantic_duplicates(rows, 0.99)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.kept == list(range(20_000))
    assert peak < 4 * rows.nbytes


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def gte(monkeypatch):
    monkeypatch.setattr(opengte, "Encoder", WordEncoder, raising=False)
    for variable in ("GTE_DEBUG", "GTE_MODEL"):
        monkeypatch.delenv(variable, raising=False)
    return lambda *given, **options: CliRunner().invoke(
        main, [str(one) for one in given], **options
    )


def test_lines_are_written_as_they_are(gte, tmp_path):
    rows = ['{"text": "red cat",  "id": 7}', '{"id": 8, "text": " red  cat "}', '{"text":"law"}']
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    out = tmp_path / "out.jsonl"
    result = gte("dedupe", "--input", tmp_path / "in.jsonl", "--by", "exact", "--output", out)
    assert result.exit_code == 0, result.output
    assert out.read_text() == rows[0] + "\n" + rows[2]
    assert result.stdout.splitlines() == ["7 red cat", "  1.00  8 red cat"]
    assert result.stderr == "3 texts: 2 kept, 1 duplicates in 1 groups\n"


def test_packed_text(gte, tmp_path):
    with gzip.open(tmp_path / "in.txt.gz", "wt") as file:
        file.write(f"{LONG}\nother words\n{LONG} and some words more\nother words\r\n")
    result = gte("dedupe", "-i", tmp_path / "in.txt.gz", "-o", tmp_path / "out.txt", "--json")
    assert (tmp_path / "out.txt").read_text() == f"{LONG}\nother words\n"
    first, second = map(json.loads, result.stdout.splitlines())
    assert (first["kept"], first["duplicates"][0]["id"]) == (1, 3)
    assert 0.8 <= first["duplicates"][0]["similarity"] < 1
    assert second == {"kept": 2, "duplicates": [{"id": 4, "similarity": 1.0}]}
    gte("dedupe", "-i", tmp_path / "in.txt.gz", "-o", tmp_path / "out.txt.gz")
    assert gzip.open(tmp_path / "out.txt.gz", "rt").read() == f"{LONG}\nother words\n"


def test_parquet_keeps_all_columns(gte, tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pa.table({"text": ["a cat", "law", "a cat"], "n": [1, 2, 3], "x": [[1], [], None]})
    parquet.write_table(table, tmp_path / "in.parquet")
    out = tmp_path / "out.parquet"
    assert gte("dedupe", "-i", tmp_path / "in.parquet", "-o", out).exit_code == 0
    assert parquet.read_table(out).to_pylist() == table.slice(0, 2).to_pylist()


def test_by_meaning(gte, tmp_path):
    (tmp_path / "in.txt").write_text("cat red\nred cat\ntax law\nPOISON\n")
    out = tmp_path / "out.txt"
    result = gte("dedupe", "-i", tmp_path / "in.txt", "--by", "meaning", "-o", out)
    assert result.exit_code == 1
    assert out.read_text() == "cat red\ntax law\n"
    assert result.stdout.splitlines() == ["1 cat red", "  1.00  2 red cat"]
    assert "in.txt:4: a text cannot be tokenised" in result.stderr
    assert result.stderr.endswith("3 texts: 2 kept, 1 duplicates in 1 groups; 1 failed\n")
    loose = gte("dedupe", "cat red", "tax law", "--by", "meaning", "--threshold", "0.0001")
    assert "2 texts: " in loose.stderr


def test_from_a_pipe(gte, tmp_path):
    out = tmp_path / "out.jsonl"
    result = gte("dedupe", "-", "--output", out, input=f"{LONG * 3}\nx y\n{LONG * 3}\n")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows == [{"id": 1, "text": LONG * 3}, {"id": 2, "text": "x y"}]


@pytest.mark.parametrize("by", ["exact", "words", "meaning"])
def test_an_index(gte, tmp_path, by):
    base = KnowledgeBase.create(tmp_path / "kb", helpers.encoder())
    base.add(["red cat", "red cat", "tax law"], ["a", "b", "c"], metadata=[{"n": 1}, {"n": 2}, {}])
    out = tmp_path / "out.jsonl"
    result = gte("dedupe", "--in", tmp_path / "kb", "--by", by, "-o", out, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {
        "kept": "a",
        "duplicates": [{"id": "b", "similarity": pytest.approx(1)}],
    }
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows[0] == {"id": "a", "title": "", "text": "red cat", "metadata": {"n": 1}}
    assert [row["id"] for row in rows] == ["a", "c"]
    assert KnowledgeBase.open(tmp_path / "kb").store.count() == 3


def test_wrong_usage(gte, tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("a\n")
    for arguments, message in (
        (["a", "--threshold", "0.5"], "--threshold needs --by meaning"),
        (["a", "--in", "kb"], "Give either texts or --in KB"),
        (["-i", path, "-o", path], "are the same file"),
        (["-i", path, "-o", tmp_path / "x.jsonl"], "rows are written unchanged"),
    ):
        result = gte("dedupe", *arguments)
        assert result.exit_code == 2
        assert message in " ".join(result.stderr.split())
