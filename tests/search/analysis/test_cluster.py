"""Groups of vectors: against plain loops, on groups that are known, and as a command."""

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
from opengte.search.analysis import kmeans
from opengte.search.analysis.cluster import Clusters, cluster, name_clusters
from opengte.search.kb import KnowledgeBase
from tests.support import kb as helpers
from tests.support.kb import WordEncoder


def blobs(sizes, width=16, spread=0.1, seed=0):
    """Rows around random directions, and the direction of each, mixed."""
    rng = np.random.default_rng(seed)
    true = np.repeat(np.arange(len(sizes)), sizes)
    rng.shuffle(true)
    centres = l2_normalise(rng.standard_normal((len(sizes), width)).astype(np.float32))
    noise = rng.standard_normal((len(true), width)).astype(np.float32)
    return l2_normalise(centres[true] + spread * noise), true


def same_groups(a, b):
    return {frozenset(np.flatnonzero(a == x)) for x in set(a.tolist())} == {
        frozenset(np.flatnonzero(b == x)) for x in set(b.tolist())
    }


def naive_lloyd(rows, centres):
    """Spherical k-means, one row after the other."""
    centres = [one.astype(np.float64) for one in centres]
    labels = None
    for _ in range(kmeans.ROUNDS + 1):
        found = [max(range(len(centres)), key=lambda c: (row @ centres[c], -c)) for row in rows]
        if found == labels:
            break
        labels = found
        for c in range(len(centres)):
            inside = [row for row, label in zip(rows, labels, strict=True) if label == c]
            if inside:
                total = np.sum(inside, axis=0)
                centres[c] = total / np.linalg.norm(total)
    return np.array(labels), np.array(centres)


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 60), st.integers(1, 6), st.integers(2, 9), st.integers(0, 99))
def test_k_means_against_plain_loops(n, count, width, seed):
    rng = np.random.default_rng(seed)
    rows = l2_normalise(rng.standard_normal((n, width)).astype(np.float32)).astype(np.float64)
    start = rows[rng.choice(n, min(n, count), replace=False)]
    found = kmeans.lloyd(rows.astype(np.float32), start.astype(np.float32))
    labels, centres = naive_lloyd(rows, start)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_allclose(found.centres, centres, atol=1e-5)
    np.testing.assert_allclose(
        found.similarity, (rows @ centres.T)[np.arange(n), labels], atol=1e-5
    )


def test_blocks_change_nothing(monkeypatch):
    rows, _ = blobs([50, 70, 30])
    whole = kmeans.assign(rows, rows[:7])
    monkeypatch.setattr(kmeans, "BLOCK", 40)
    parts = kmeans.assign(rows, rows[:7])
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_silhouette_against_scikit_learn(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    rows, true = blobs([20, 9, 1, 14], spread=0.4, seed=seed)
    mine = kmeans.silhouette(rows, true)
    theirs = metrics.silhouette_score(rows.astype(np.float64), true, metric="cosine")
    assert mine == pytest.approx(theirs, abs=1e-5)
    assert kmeans.silhouette(rows, np.zeros(len(rows), np.int32)) == 0.0


def test_quality_against_scikit_learn():
    """Several starts find what k-means of a well-kept library finds, on the same unit rows."""
    sklearn = pytest.importorskip("sklearn.cluster")
    rows, _ = blobs([40] * 12, width=32, spread=0.5, seed=3)
    other = sklearn.KMeans(12, n_init=kmeans.STARTS, random_state=0).fit(rows)
    theirs = l2_normalise(other.cluster_centers_.astype(np.float32))
    mine = kmeans.kmeans(rows, 12, 0)
    assert mine.similarity.sum() >= 0.995 * kmeans.assign(rows, theirs)[1].sum()


@pytest.mark.parametrize("groups", [2, 3, 5, 9, 17])
def test_groups_that_are_clear_are_found(groups):
    rows, true = blobs([60] * groups, width=48, spread=0.03, seed=groups)
    found = cluster(rows, [""] * len(rows), count=groups)
    inside = found.labels >= 0
    assert inside.mean() > 0.97
    assert same_groups(found.labels[inside], true[inside])


def test_the_number_is_chosen():
    for groups in (3, 5, 10):
        rows, _ = blobs([60] * groups, width=48, spread=0.03)
        assert kmeans.choose_count(rows, 0) == groups
        assert len(cluster(rows, [""] * len(rows)).names) == groups


def test_one_cloud_is_not_cut_into_two_halves():
    rows = l2_normalise(np.random.default_rng(0).standard_normal((900, 24)).astype(np.float32))
    assert kmeans.choose_count(rows, 0) >= kmeans.USEFUL


def test_clusters_are_named_by_their_own_words_and_sorted_by_size():
    rows, true = blobs([30, 50, 40])
    words = [["cat", "purr"], ["law", "court"], ["river", "bank"]]
    rng = np.random.default_rng(0)
    texts = [f"The {rng.choice(words[one])} and the {rng.choice(words[one])} here" for one in true]
    found = cluster(rows, texts, count=3)
    assert found.sizes == [50, 40, 30]
    assert [set(name.split(", ")) for name in found.names] == [
        {"law", "court"},
        {"river", "bank"},
        {"cat", "purr"},
    ]
    assert found.labels.dtype == np.int32
    for number, medoid in enumerate(found.medoids):
        inside = rows[found.labels == number]
        totals = [(inside @ row).sum() for row in inside]
        assert (inside @ rows[medoid]).sum() == pytest.approx(max(totals))


def test_names_differ_and_are_never_empty():
    labels = np.array([0, 0, 1, 1, 2], np.int32)
    found = name_clusters(labels, np.ones(5, np.float32), ["cat", "cat", "cat", "cat", "1 2 3"])
    assert len(set(found)) == 3
    assert all(found)
    assert name_clusters(np.zeros(2, np.int32), np.ones(2, np.float32), ["red cat", "red dog"]) == [
        "red, cat, dog"
    ]
    assert name_clusters(np.zeros(2, np.int32), np.ones(2, np.float32), ["日本 東京", "日本"])[
        0
    ].startswith("日本")


def test_rows_that_fit_nowhere_are_in_no_cluster():
    rows, _ = blobs([80, 80], spread=0.02)
    stray = l2_normalise(rows[0] - 3 * rows[1] * (rows[0] @ rows[1]) + 0.7)
    all_rows = np.concatenate([rows, stray[None], np.zeros((1, 16), np.float32)])
    found = cluster(all_rows.astype(np.float32), ["x"] * 162, count=2)
    assert found.labels[160:].tolist() == [-1, -1]
    assert (found.labels[:160] >= 0).mean() > 0.95


def test_the_same_every_time():
    rows, _ = blobs([30, 40, 20], spread=0.3)
    a, b = (cluster(rows, ["x"] * 90, seed=5) for _ in range(2))
    np.testing.assert_array_equal(a.labels, b.labels)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_very_few_rows(n):
    rows, _ = blobs([n]) if n else (np.zeros((0, 16), np.float32), None)
    found = cluster(rows, ["a cat"] * n)
    assert isinstance(found, Clusters)
    assert len(found.labels) == n
    assert sum(found.sizes) == n


def test_fewer_distinct_rows_than_clusters():
    rows = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    found = cluster(rows, ["x"] * 15, count=6)
    assert found.sizes == [5, 5, 5]


def test_bad_input():
    rows, _ = blobs([5])
    with pytest.raises(InputError, match=r"the shape \(5, 16\), texts are 4"):
        cluster(rows, ["x"] * 4)
    with pytest.raises(InputError, match="count is 6, expected 1 to 5"):
        cluster(rows, ["x"] * 5, count=6)
    rows[2, 3] = np.nan
    with pytest.raises(InputError, match="vector 2 holds values that are not finite"):
        cluster(rows, ["x"] * 5)


def test_memory_is_bounded():
    """A hundred thousand rows, by a sample and blocks: far from 40 GB of n by n."""
    import tracemalloc

    rng = np.random.default_rng(0)
    rows = l2_normalise(rng.standard_normal((20_000, 16)).astype(np.float32))
    tracemalloc.start()
    kmeans.kmeans(rows, 40, 0, starts=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * 2**20


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def gte(monkeypatch):
    monkeypatch.setattr(opengte, "Encoder", WordEncoder, raising=False)
    for variable in ("GTE_DEBUG", "GTE_MODEL"):
        monkeypatch.delenv(variable, raising=False)
    return lambda *given, **options: CliRunner().invoke(
        main, [str(one) for one in given], **options
    )


@pytest.fixture
def file(tmp_path):
    texts = ["red cat"] * 6 + ["tax law"] * 4
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"id": f"t{n}", "text": t}) for n, t in enumerate(texts)))
    return path


def test_a_file(gte, file, tmp_path):
    out = tmp_path / "out.jsonl"
    result = gte("cluster", "--input", file, "--clusters", 2, "--output", out)
    assert result.exit_code == 0, result.output
    assert [line.split() for line in result.stdout.splitlines()[::2]] == [
        ["0", "6", "cat,", "red"],
        ["1", "4", "law,", "tax"],
    ]
    assert result.stderr == "10 texts in 2 clusters (fake, fp32)\n"
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["cluster"] for row in rows] == [0] * 6 + [1] * 4
    assert rows[0] == {"id": "t0", "cluster": 0, "name": "cat, red", "similarity": 1.0}


def test_as_json_and_from_a_pipe(gte):
    result = gte("cluster", "-", "--clusters", 2, "--json", input="red cat\nred cat\ntax law\n")
    first, second = map(json.loads, result.stdout.splitlines())
    assert (first["size"], first["medoid"]) == (2, {"id": 1, "text": "red cat"})
    assert (second["size"], second["name"]) == (1, "law, tax")


def test_an_index(gte, tmp_path):
    base = KnowledgeBase.create(tmp_path / "kb", helpers.encoder())
    base.add(["red cat"] * 3 + ["tax law"] * 2, list("abcde"))
    result = gte("cluster", "--in", tmp_path / "kb", "--clusters", 2, "--json")
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["size"] for line in result.stdout.splitlines()] == [3, 2]
    assert "(the index's vectors)" in result.stderr


def test_bad_rows_are_told_and_the_rest_is_grouped(gte, file):
    file.write_text(file.read_text() + '\n{"id": "x"}\n{"id": "y", "text": "POISON"}\n')
    result = gte("cluster", "--input", file, "--clusters", 2)
    assert result.exit_code == 1
    assert "has no field `text`" in result.stderr
    assert "a text cannot be tokenised" in result.stderr
    assert result.stderr.endswith("10 texts in 2 clusters (fake, fp32); 2 failed\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Usage"),
        (["--clusters", 2], "No texts"),
        (["a", "--in", "kb"], "Give either texts or --in KB"),
        (["a", "--clusters", 2], "--clusters is 2, but there are 1 texts"),
    ],
)
def test_wrong_usage(gte, arguments, message):
    result = gte("cluster", *arguments)
    assert result.exit_code in (0, 2)
    assert message in result.output
