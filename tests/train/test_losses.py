"""Every loss against its naive float64 twin: values and gradients."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from opengte.errors import InputError
from opengte.train import losses
from opengte.train.losses import (
    COSINE,
    LATE,
    SPARSE,
    CandidateScores,
    GlobalBatch,
    Similarity,
    TextVectors,
)
from tests.support import train_naive as naive
from tests.support.train_naive import Texts, pairs_of, random_texts

TIGHT = {"rtol": 0.0, "atol": 1e-11}
SMALL = Similarity(COSINE.prepare, COSINE.matrix, COSINE.paired, (3, 4))  # many tiles


def item(loss: Tensor) -> float:
    return float(loss.detach())


def gradients(loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


def naive_leaves(texts: Texts) -> list[Tensor]:
    leaves = [texts.queries, texts.positives, *texts.negatives]
    for leaf in leaves:
        leaf.requires_grad_()
    return leaves


def assert_same(loss: Tensor, leaves: list[Tensor], expected: Tensor, texts: Texts) -> None:
    torch.testing.assert_close(loss, expected, **TIGHT)
    want = gradients(expected, [texts.queries, texts.positives, *texts.negatives])
    got = gradients(loss, leaves)
    torch.testing.assert_close(got[0], want[0], **TIGHT)
    torch.testing.assert_close(got[1], want[1], **TIGHT)
    torch.testing.assert_close(got[2], torch.cat([*want[2:], want[0][:0]]), **TIGHT)


@given(
    n=st.integers(1, 7),
    d=st.integers(1, 5),
    seed=st.integers(0, 10**6),
    words=st.sampled_from([3, 12, 10**6]),
    margin=st.sampled_from([None, 0.1, -0.2]),
    improved=st.booleans(),
    tiled=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_contrastive_losses_equal_their_formulas(
    n: int, d: int, seed: int, words: int, margin: float | None, improved: bool, tiled: bool
) -> None:
    texts = random_texts(n, d, seed, words=words)
    naive_leaves(texts)
    pairs, leaves = pairs_of(texts)
    if tiled:
        pairs = losses.pairs.replace(pairs, similarity=SMALL)
    fast = losses.improved_contrastive if improved else losses.info_nce
    slow = naive.improved if improved else naive.info_nce
    loss = fast(pairs, temperature=0.05, margin=margin)
    assert_same(loss, leaves, slow(texts, 0.05, margin=margin), texts)


@given(n=st.integers(2, 7), seed=st.integers(0, 10**6), cut=st.integers(0, 7))
@settings(max_examples=25, deadline=None)
def test_shares_of_rows_add_up_to_the_whole(n: int, seed: int, cut: int) -> None:
    texts = random_texts(n, 4, seed, words=8)
    cut = min(cut, n)
    for loss in (losses.improved_contrastive, losses.info_nce):
        whole, leaves = pairs_of(texts)
        expected = loss(whole, temperature=0.05, margin=0.1)
        want = gradients(expected, leaves)
        parts = [pairs_of(texts, rows) for rows in (slice(0, cut), slice(cut, n))]
        shares = [loss(pairs, temperature=0.05, margin=0.1) for pairs, _ in parts]
        torch.testing.assert_close(sum(shares), expected, **TIGHT)
        got = [gradients(share, part[1]) for share, part in zip(shares, parts, strict=True)]
        for place, tensor in enumerate(want):
            torch.testing.assert_close(got[0][place] + got[1][place], tensor, **TIGHT)


def test_improved_loss_equals_that_of_sentence_transformers() -> None:
    module = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    texts = random_texts(6, 8, seed=3)
    texts.negatives = [torch.randn(2, 8, dtype=torch.float64) for _ in range(6)]
    texts.negative_texts = [["", ""] for _ in range(6)]
    naive_leaves(texts)
    pairs, leaves = pairs_of(texts, keys=False)
    loss = losses.improved_contrastive(pairs, temperature=0.01)
    theirs = module.MultipleNegativesRankingLoss(
        model=None,
        scale=100.0,
        directions=("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"),
        partition_mode="joint",
    )
    documents = [texts.positives, *(torch.stack([n[k] for n in texts.negatives]) for k in (0, 1))]
    expected = theirs.compute_loss_from_embeddings([texts.queries, *documents], None)
    assert_same(loss, leaves, expected, texts)


def test_without_keys_equal_texts_are_negatives() -> None:
    texts = random_texts(5, 4, 0, words=2)
    pairs, leaves = pairs_of(texts, keys=False)
    naive_leaves(texts)
    loss = losses.improved_contrastive(pairs, temperature=0.1)
    assert_same(loss, leaves, naive.improved(texts, 0.1, masks=False), texts)


def test_two_pairs_that_share_a_text_are_no_negatives_of_each_other() -> None:
    vectors = torch.eye(2, 3, dtype=torch.float64)
    same = Texts(vectors, vectors, [vectors[:0]] * 2, ["a", "b"], ["c", "a"], [[], []], [[], []])
    pairs, _ = pairs_of(same)
    assert item(losses.info_nce(pairs, temperature=0.01)) == 0.0
    apart = Texts(vectors, vectors, [vectors[:0]] * 2, ["a", "b"], ["c", "d"], [[], []], [[], []])
    assert item(losses.info_nce(pairs_of(apart)[0], temperature=0.5)) > 0.1


def test_a_negative_that_is_a_known_positive_does_not_count() -> None:
    v = torch.eye(1, 3, dtype=torch.float64)
    for known, expected in ((["x"], 0.0), ([], 0.6931471805599453)):
        texts = Texts(v, v, [v], ["q"], ["p"], [["x"]], [known])
        pairs, _ = pairs_of(texts)
        assert item(losses.info_nce(pairs, temperature=1.0)) == pytest.approx(expected)


def test_a_row_without_any_negative_has_no_loss_and_no_gradient() -> None:
    texts = random_texts(1, 4, 0, most=0)
    pairs, leaves = pairs_of(texts)
    loss = losses.info_nce(pairs, temperature=0.01)
    assert item(loss) == 0.0
    assert all(not g.abs().max() > 1e-12 for g in gradients(loss, leaves[:2]))


@given(n=st.integers(1, 6), seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_losses_of_own_candidates_equal_their_formulas(n: int, seed: int) -> None:
    texts = random_texts(n, 4, seed, words=6)
    naive_leaves(texts)
    generator = torch.Generator().manual_seed(seed)
    teacher = [torch.randn(1 + len(row), generator=generator).double() for row in texts.negatives]
    theirs = CandidateScores(
        torch.stack([t[0] for t in teacher]),
        torch.cat([t[1:] for t in teacher]),
        pairs_of(texts)[0].owners,
    )
    pairs, leaves = pairs_of(texts)
    groups = losses.score_candidates(pairs)
    alone = losses.own_negatives_loss(
        losses.mask_false_negatives(groups, pairs), n, temperature=0.2
    )
    assert_same(alone, leaves, naive.own_negatives(texts, 0.2), texts)
    pairs, leaves = pairs_of(texts)
    groups = losses.score_candidates(pairs)
    kl = losses.distil_kl(groups, theirs, n, temperature=0.3, teacher_temperature=2.0)
    assert_same(kl, leaves, naive.kl(texts, teacher, 0.3, 2.0), texts)
    if sum(map(len, texts.negatives)):
        pairs, leaves = pairs_of(texts)
        error = losses.margin_mse(losses.score_candidates(pairs), theirs, len(pairs.owners))
        assert_same(error, leaves, naive.margin_mse(texts, teacher), texts)


@given(n=st.integers(1, 9), seed=st.integers(0, 10**6), levels=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_cosent_equals_its_formula(n: int, seed: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(n, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(levels, (n,), generator=generator).float()
    loss, expected = losses.cosent(scores, labels), naive.cosent(scores, labels, 20.0)
    torch.testing.assert_close(loss, expected, **TIGHT)
    if levels > 1:
        got, want = (gradients(x + 0 * scores.sum(), [scores])[0] for x in (loss, expected))
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


def test_cosent_equals_that_of_sentence_transformers() -> None:
    module = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    a, b = torch.randn(2, 7, 5, dtype=torch.float64)
    labels = torch.rand(7)
    theirs = module.CoSENTLoss(model=None).compute_loss_from_embeddings([a, b], labels)
    torch.testing.assert_close(losses.cosent(F.cosine_similarity(a, b), labels), theirs)


def test_matryoshka_is_the_weighted_sum_over_leading_parts() -> None:
    texts = random_texts(5, 6, 1)
    weights = {6: 1.0, 4: 0.5, 2: 0.25}
    pairs, leaves = pairs_of(texts)

    def loss(some: GlobalBatch) -> Tensor:
        return losses.improved_contrastive(some, temperature=0.05)

    together = losses.matryoshka(loss, pairs, weights)
    naive_leaves(texts)
    parts = []
    for d, weight in weights.items():
        cut = naive.Texts(
            texts.queries[:, :d],
            texts.positives[:, :d],
            [x[:, :d] for x in texts.negatives],
            texts.query_texts,
            texts.positive_texts,
            texts.negative_texts,
            texts.known_texts,
        )
        parts.append(weight * naive.improved(cut, 0.05))
    assert_same(together, leaves, torch.stack(parts).sum(), texts)
    with pytest.raises(InputError, match="dimensions has 7, expected 1 to 6"):
        losses.matryoshka(loss, pairs, {7: 1.0})


# --- sparse weights and token vectors -------------------------------------------------------------


def ragged(n: int, seed: int, width: int | None, vocabulary: int = 9) -> TextVectors:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 6, (n,), generator=generator)
    total = int(lengths.sum())
    shape = (total,) if width is None else (total, width)
    values = torch.rand(*shape, generator=generator, dtype=torch.float64)
    values = values if width is None else values - 0.5
    ids = torch.randint(vocabulary, (total,), generator=generator) if width is None else None
    offsets = F.pad(lengths.cumsum(0), (1, 0))
    return TextVectors(values.requires_grad_(), offsets, ids)


def sparse_score(a: TextVectors, b: TextVectors) -> Tensor:
    tables = []
    for item in (a, b):
        table: dict[int, Tensor] = {}
        assert item.ids is not None
        for token, value in zip(item.ids.tolist(), item.values, strict=True):
            table[token] = torch.maximum(table[token], value) if token in table else value
        tables.append(table)
    zero = (a.values.sum() + b.values.sum()) * 0
    return sum((tables[0][t] * tables[1][t] for t in tables[0] if t in tables[1]), start=zero)


def late_score(a: TextVectors, b: TextVectors) -> Tensor:
    x, y = F.normalize(a.values, dim=-1), F.normalize(b.values, dim=-1)
    return (x @ y.T).max(dim=1).values.mean()


@pytest.mark.parametrize(("similarity", "width"), [(SPARSE, None), (LATE, 3)])
@pytest.mark.parametrize("seed", range(5))
def test_ragged_similarities_equal_text_by_text_scores(
    similarity: Similarity, width: int | None, seed: int
) -> None:
    slow = sparse_score if width is None else late_score
    a, b = ragged(5, seed, width), ragged(5, seed + 100, width)
    expected = torch.stack([slow(a[i : i + 1], b[j : j + 1]) for i in range(5) for j in range(5)])
    expected = expected.view(5, 5)
    x, y = similarity.prepare(a), similarity.prepare(b)
    weights = torch.randn(5, 5, dtype=torch.float64)
    for got, want in (
        (similarity.matrix(x, y) * weights, expected * weights),
        (similarity.paired(x, y) * weights[0], expected.diagonal() * weights[0]),
    ):
        torch.testing.assert_close(got, want, **TIGHT)
        leaves = [a.values, b.values]
        for one, other in zip(
            torch.autograd.grad(got.sum(), leaves, retain_graph=True),
            torch.autograd.grad(want.sum(), leaves, retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(one, other, **TIGHT)


def test_the_improved_loss_needs_a_symmetric_similarity() -> None:
    items = ragged(2, 0, 3)
    none = torch.zeros(0, dtype=torch.int64)
    empty = TextVectors(items.values[:0], torch.zeros(1, dtype=torch.int64))
    pairs = GlobalBatch(items, items, empty, none, slice(0, 2), slice(0, 0), None, LATE)
    with pytest.raises(InputError, match="from queries to documents only: use info_nce"):
        losses.improved_contrastive(pairs, temperature=0.1)


@pytest.mark.parametrize(("similarity", "width"), [(SPARSE, None), (LATE, 3)])
def test_ragged_losses_are_the_same_in_any_tiles(similarity: Similarity, width: int | None) -> None:
    results = []
    for tile in ((100, 100), (2, 3)):
        sides = [ragged(n, n, width) for n in (6, 6)] + [ragged(4, 9, width)]
        cut = Similarity(similarity.prepare, similarity.matrix, similarity.paired, tile)
        owners = torch.tensor([0, 0, 3, 5])
        pairs = GlobalBatch(*sides, owners, slice(0, 6), slice(0, 4), None, cut)
        loss = losses.info_nce(pairs, temperature=0.1)
        results.append([loss, *torch.autograd.grad(loss, [s.values for s in sides])])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, **TIGHT)


def test_flops_is_the_squared_mean_weight_of_each_id() -> None:
    items = ragged(6, 4, None)
    table = torch.zeros(6, 9, dtype=torch.float64)
    assert items.ids is not None
    rows = []
    for i in range(6):
        part = items[i : i + 1]
        cells = table[i].scatter_reduce(0, part.ids, part.values, "amax")  # type: ignore[arg-type]
        rows.append(cells)
    expected = torch.stack(rows).mean(0).square().sum()
    shares = [losses.flops_regulariser(items, slice(a, b)) for a, b in ((0, 2), (2, 6))]
    torch.testing.assert_close(shares[0] + shares[1], expected, **TIGHT)
    got = torch.autograd.grad(shares[0] + shares[1], items.values)[0]
    torch.testing.assert_close(got, torch.autograd.grad(expected, items.values)[0], **TIGHT)


# --- masked language modelling --------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 40, 1 << 20])
@pytest.mark.parametrize("biased", [True, False])
def test_masked_cross_entropy_equals_the_dense_one(
    block: int, biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses.masked, "BLOCK", block)
    states, table = (torch.randn(n, 5, dtype=torch.float64, requires_grad=True) for n in (7, 11))
    bias = torch.randn(11, dtype=torch.float64, requires_grad=True) if biased else None
    targets = torch.randint(11, (7,))
    loss = losses.masked_cross_entropy(states, table, bias, targets)
    expected = F.cross_entropy(F.linear(states, table, bias), targets, reduction="sum")
    torch.testing.assert_close(loss, expected, **TIGHT)
    leaves = [states, table, *([bias] if bias is not None else [])]
    for got, want in zip(
        torch.autograd.grad(3 * loss, leaves),
        torch.autograd.grad(3 * expected, leaves),
        strict=True,
    ):
        torch.testing.assert_close(got, want, **TIGHT)


# --- size -----------------------------------------------------------------------------------------


def test_no_tile_is_larger_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []

    def watched(a: TextVectors, b: TextVectors) -> Tensor:
        sizes.append((len(a), len(b)))
        return COSINE.matrix(a, b)

    cut = Similarity(COSINE.prepare, watched, COSINE.paired, (16, 32), True)
    texts = random_texts(100, 4, 0, words=50)
    pairs, leaves = pairs_of(texts)
    pairs = losses.pairs.replace(pairs, similarity=cut)
    losses.improved_contrastive(pairs, temperature=0.01, margin=0.1).backward()
    assert max(a for a, _ in sizes) == 16 and max(b for _, b in sizes) == 32


BIG = """
import resource, torch
from opengte.train import losses
from opengte.train.losses import GlobalBatch, TextKeys, TextVectors
torch.set_num_threads(2)
n = {n}
q, p = (torch.randn(n, 64, requires_grad=True) for _ in range(2))
none = torch.zeros(0, 64)
keys = torch.arange(n) // 2
empty = torch.zeros(0, dtype=torch.int64)
pairs = GlobalBatch(TextVectors(q), TextVectors(p), TextVectors(none), empty, slice(0, n),
              slice(0, 0),
              TextKeys(keys, keys + n, empty, keys[:, None]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
losses.info_nce(pairs, temperature=0.01, margin=0.1).backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_a_large_batch_needs_little_memory() -> None:
    # one matrix of scores would be 4 GiB; 65,536 pairs take the same memory and some minutes
    done = subprocess.run(
        [sys.executable, "-c", BIG.format(n=32768)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 500_000  # KiB
