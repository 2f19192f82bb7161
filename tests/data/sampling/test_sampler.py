"""The order of rows: a pure function of seed and step, held against one that walks step by step."""

from collections import Counter

import numpy as np
import pytest

from opengte.data import BatchSampler
from opengte.data.reading.sources import SourceSpec
from opengte.errors import InputError
from tests.support.slow_permutation import slow_mix, slow_permutation
from tests.support.training_data import dataset, encoding, made, pairs, rows_of, words, write_lines


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three sources, of 40, 160 and 90 rows of different lengths."""
    folder = tmp_path_factory.mktemp("three")
    specs = []
    for name, count in (("a", 40), ("b", 160), ("c", 90)):
        rows = [
            {"query": f"{name} {i}", "positive": words(i, 1 + i * 7 % 23)} for i in range(count)
        ]
        specs.append(SourceSpec(name, (write_lines(folder / f"{name}.jsonl", rows),)))
    return made(folder, *specs)[0]


def walk(data, seed, batch, alpha, steps):
    """Draw step after step, with the permutations of all epochs in memory."""
    sizes = [source.rows for source in data.sources]
    chances = np.array(sizes, dtype=float) ** alpha
    edges = np.cumsum(chances / chances.sum())
    waiting: list[list[list[int]]] = [[] for _ in sizes]
    epochs = [0] * len(sizes)
    for step in range(steps):
        uniform = (slow_mix(seed, 1, step) >> 11) * 2.0**-53
        source = min(int(np.searchsorted(edges, uniform, side="right")), len(sizes) - 1)
        if not waiting[source]:
            n = sizes[source]
            whole = slow_permutation(n, slow_mix(seed, 2, source, epochs[source]))
            waiting[source] = [whole[i : i + batch] for i in range(0, n - batch + 1, batch)]
            epochs[source] += 1
        yield source, waiting[source].pop(0), epochs[source] - 1


@pytest.mark.parametrize(("seed", "batch", "alpha"), [(0, 16, 0.5), (7, 7, 1.0), (-3, 40, 0.0)])
def test_the_order_is_that_of_a_walk(three, seed, batch, alpha):
    order = BatchSampler.of(three, seed=seed, batch=batch, alpha=alpha)
    expected = list(walk(three, seed, batch, alpha, 120))
    steps = np.random.default_rng(0).permutation(120)
    for step in steps.tolist():  # in any order, and again
        draw = order.at(step)
        assert (draw.source, draw.rows.tolist(), draw.epoch) == expected[step]
    fresh = BatchSampler.of(three, seed=seed, batch=batch, alpha=alpha)
    assert fresh.at(119).rows.tolist() == expected[119][1]


def test_far_steps_need_nothing_but_their_number(three, monkeypatch):
    monkeypatch.setattr("opengte.data.sampling.sampler.SPAN", 64)
    order = BatchSampler.of(three, seed=1, batch=16)
    late = order.at(3 * 64 + 5)
    walked = BatchSampler.of(three, seed=1, batch=16)
    drawn = [walked.at(step).source for step in range(3 * 64 + 6)]
    turn = drawn[:-1].count(late.source)
    stratum = order.strata[late.source]
    assert late.epoch == turn // stratum.batches


def test_no_row_comes_twice_in_an_epoch(three):
    order = BatchSampler.of(three, seed=3, batch=16)
    seen: dict[tuple[int, int], list[int]] = {}
    for step in range(300):
        draw = order.at(step)
        seen.setdefault((draw.source, draw.epoch), []).extend(draw.rows.tolist())
    assert all(len(rows) == len(set(rows)) for rows in seen.values())
    whole = [rows for (source, _), rows in seen.items() if source == 1 and len(rows) == 160]
    assert len(whole) > 3
    assert len({tuple(rows) for rows in whole}) == len(whole)  # each epoch has its own order


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_sources_are_drawn_by_their_rows_to_the_power_alpha(three, alpha):
    order = BatchSampler.of(three, seed=0, batch=8, alpha=alpha)
    counts = Counter(order.at(step).source for step in range(1500))
    sizes = np.array([40, 160, 90]) ** alpha
    expected = 1500 * sizes / sizes.sum()
    found = np.array([counts[i] for i in range(3)])
    assert np.all(np.abs(found - expected) < 4 * np.sqrt(expected))


def test_weights_multiply(tmp_path):
    one = write_lines(tmp_path / "a.jsonl", pairs(32))
    two = write_lines(
        tmp_path / "b.jsonl", [{"query": f"x{i}", "positive": "y"} for i in range(32)]
    )
    data, _ = made(tmp_path, SourceSpec("a", (one,), weight=3.0), SourceSpec("b", (two,)))
    order = BatchSampler.of(data, batch=8)
    np.testing.assert_allclose(order.chances, [0.75, 0.25])
    assert order.steps_per_epoch == 8


def test_a_source_of_weight_zero_is_never_drawn(tmp_path):
    one = write_lines(tmp_path / "a.jsonl", pairs(32))
    two = write_lines(tmp_path / "b.jsonl", [{"query": f"x{i}", "positive": "y"} for i in range(3)])
    data, _ = made(tmp_path, SourceSpec("a", (one,)), SourceSpec("b", (two,), weight=0.0))
    order = BatchSampler.of(data, batch=8)
    assert {order.at(step).source for step in range(200)} == {0}
    assert order.dropped == {"b": 3}


BUCKETS = ((8, 20), (16, 10), (99, 5))


def test_length_buckets_have_their_own_batches(three):
    order = BatchSampler.of(three, seed=2, buckets=BUCKETS)
    edges = [0, 8, 16, 99]
    rows: dict[tuple[int, int, int], list[int]] = {}
    for step in range(1500):
        draw = order.at(step)
        longest = three.sources[draw.source].longest[draw.rows]
        size = len(draw.rows)
        bucket = [batch for _, batch in BUCKETS].index(size)
        assert longest.max() <= edges[bucket + 1]
        rows.setdefault((draw.source, bucket, draw.epoch), []).extend(draw.rows.tolist())
    assert all(len(own) == len(set(own)) for own in rows.values())
    # all rows of a source are as likely, whatever their length
    drawn = Counter((s, row) for (s, _, _), own in rows.items() for row in own)
    source = three.sources[1]
    means = [
        np.mean([drawn[1, row] for row in np.flatnonzero(here).tolist()])
        for here in (source.longest <= 8, source.longest > 16)
    ]
    assert means[0] == pytest.approx(means[1], rel=0.15)


def test_longest_is_the_longest_text_of_each_row(three):
    for source in three.sources:
        expected = [
            max(len(text) for text in (query, *positives, *negatives))
            for query, positives, negatives in rows_of(source)
        ]
        assert source.longest.tolist() == expected


def test_a_bucket_that_is_too_small_joins_the_longer_one(tmp_path):
    rows = [{"query": f"q{i}", "positive": words(i, 2 if i < 5 else 20)} for i in range(30)]
    data = dataset(tmp_path, rows)
    order = BatchSampler.of(data, buckets=((10, 8), (99, 6)))
    (stratum,) = order.strata
    assert (stratum.size, stratum.batch) == (30, 6)
    rows = [{"query": f"q{i}", "positive": words(i, 2 if i > 5 else 20)} for i in range(30)]
    (tmp_path / "other").mkdir()
    data = dataset(tmp_path / "other", rows)
    order = BatchSampler.of(data, buckets=((10, 8), (99, 8)))
    assert order.dropped == {"rows": 6}  # never too many long rows in one batch


def test_small_sources_are_an_error_that_names_them_or_dropped(three):
    with pytest.raises(InputError, match=r"smaller than a batch of 64: `a` \(40 rows\). Use"):
        BatchSampler.of(three, batch=64)
    order = BatchSampler.of(three, batch=64, small="drop")
    assert order.dropped == {"a": 40}
    assert {order.at(step).source for step in range(100)} == {1, 2}
    with pytest.raises(InputError, match="smaller than a batch of 500: `a`.*`b`.*`c`"):
        BatchSampler.of(three, batch=500, small="drop")


def test_labelled_rows_need_another_of_their_label(tmp_path):
    rows = [{"text": f"t {i}", "label": label} for i, label in enumerate("aabbbcdd")]
    data = dataset(tmp_path, rows)
    order = BatchSampler.of(data, batch=4)
    assert order.dropped == {"rows": 1}
    assert 5 not in {row for step in range(50) for row in order.at(step).rows.tolist()}
    (tmp_path / "one").mkdir()
    data = dataset(tmp_path / "one", [{"text": f"t {i}", "label": "a"} for i in range(9)])
    with pytest.raises(InputError, match=r"`rows` \(0 of 9 rows have another of their label"):
        BatchSampler.of(data, batch=2)


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 0},
        {},
        {"batch": 4, "buckets": ((8, 4),)},
        {"buckets": ()},
        {"buckets": ((16, 4), (8, 4))},
        {"batch": 4, "alpha": 1.5},
    ],
)
def test_orders_that_make_no_sense(three, options):
    with pytest.raises(InputError, match="expected"):
        BatchSampler.of(three, **options)
    with pytest.raises(InputError, match="step=-1"):
        BatchSampler.of(three, batch=4).at(-1)


def test_a_fingerprint_says_whether_two_orders_are_the_same(three, tmp_path):
    first = BatchSampler.of(three, seed=1, batch=8)
    assert BatchSampler.of(three, seed=1, batch=8).fingerprint == first.fingerprint
    other = dataset(tmp_path, pairs(40))
    orders = [
        BatchSampler.of(three, seed=2, batch=8),
        BatchSampler.of(three, seed=1, batch=9),
        BatchSampler.of(three, seed=1, batch=8, alpha=0.4),
        BatchSampler.of(three, seed=1, buckets=((99, 8),)),
        BatchSampler.of(other, seed=1, batch=8),
    ]
    assert len({first.fingerprint, *(order.fingerprint for order in orders)}) == 6


def test_switches_come_from_the_command(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", pairs(20))
    spec = SourceSpec("a", (path,), in_batch_negatives=False, temperature=0.05, weight=2.0)
    (source,) = made(tmp_path, spec, encoding=encoding(tmp_path))[0].sources
    assert (source.in_batch_negatives, source.temperature, source.weight) == (False, 0.05, 2.0)
