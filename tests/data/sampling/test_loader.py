"""Batches of training data, held against rows that are read and tokenised one at a time."""

import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opengte.data import (
    BatchLoader,
    BatchSampler,
    BatchTexts,
    TrainingBatch,
    cross_encoder_sequences,
)
from opengte.data.examples import array_to_hashes, text_hash
from opengte.data.preparation.window import PreparationSettings
from opengte.data.reading.sources import SourceSpec
from opengte.data.sampling.loader import draw_at_most
from opengte.errors import InputError
from opengte.tokenization import Prompts
from tests.support.tokenizers_for_tests import save_qwen3, save_unigram
from tests.support.training_data import encoding, made, pairs, tokenizer, words, write_lines

PROMPTS = Prompts(query="what is ", document="passage: ", mask="prompt")


@pytest.fixture
def rows():
    found = pairs(90, negatives=4)
    for i in range(0, 90, 3):  # several positives; every sixth query comes again with another one
        found[i]["positive"] = [found[i]["positive"], f"also {i}", f"and {i}"]
        if i % 6 == 0:
            found[i + 1]["query"] = found[i]["query"].upper()
    return found


@pytest.fixture
def data(tmp_path, rows):
    path = write_lines(tmp_path / "a.jsonl", rows)
    settings = PreparationSettings(shard_rows=20)
    own = encoding(tmp_path, prompts=PROMPTS)
    return made(tmp_path, SourceSpec("a", (path,)), encoding=own, settings=settings)[0]


def listed(value):
    return value if isinstance(value, list) else [value]


def texts_of(column: BatchTexts, at: int) -> tuple[list[list[int]], list[bytes]]:
    """Return the ids and hashes of one row's texts."""
    start = int(column.counts[:at].sum())
    places = range(start, start + int(column.counts[at]))
    cu_seqlens = column.texts.cu_seqlens
    ids = [column.texts.ids[cu_seqlens[i] : cu_seqlens[i + 1]].tolist() for i in places]
    return ids, array_to_hashes(column.hashes[start : start + len(ids)])


def test_a_batch_is_what_the_rows_say(tmp_path, data, rows):
    own = tokenizer(tmp_path)

    def ids(texts, side, length=99):
        prefix = PROMPTS.prefix(side)
        batch = own.encode(texts, prompt=prefix, max_length=length).batch
        return [batch.ids[a:b].tolist() for a, b in pairwise(batch.cu_seqlens)]

    order = BatchSampler.of(data, batch=32)
    batches = BatchLoader(data, order, positives=None, ahead=0)
    for step in range(3):
        batch = batches.at(step)
        assert batch.rows.tolist() == order.at(step).rows.tolist()
        assert (batch.step, batch.source, batch.total, batch.first) == (
            step,
            data.sources[0],
            32,
            0,
        )
        assert len(batch.query) == 32
        for at, number in enumerate(batch.rows.tolist()):
            row = rows[number]
            positives, negatives = listed(row["positive"]), row["negative"]
            hashes = [text_hash(text) for text in (*positives, *negatives)]
            assert texts_of(batch.query, at) == (
                ids([row["query"]], "query", 24),
                [text_hash(row["query"])],
            )
            assert texts_of(batch.positive, at) == (
                ids(positives, "document", 32),
                hashes[: len(positives)],
            )
            expected = ids(negatives, "document", 32) if negatives else []
            assert texts_of(batch.negative, at) == (expected, hashes[len(positives) :])


def test_known_answers_are_those_of_all_rows_with_the_query(data, rows):
    batch = BatchLoader(data, BatchSampler.of(data, batch=45), ahead=0).at(0)
    starts = np.cumsum(batch.known_counts) - batch.known_counts
    for at, number in enumerate(batch.rows.tolist()):
        same = [r for r in rows if r["query"].lower() == rows[number]["query"].lower()]
        expected = {text_hash(text) for row in same for text in listed(row["positive"])}
        start = int(starts[at])
        found = array_to_hashes(batch.known_hashes[start : start + int(batch.known_counts[at])])
        assert set(found) == expected
    assert max(batch.known_counts) > 3


@pytest.mark.parametrize("save", [None, save_unigram, save_qwen3])
def test_texts_cut_at_load_are_those_cut_by_the_tokenizer(tmp_path, rows, save):
    own = tokenizer(tmp_path) if save is None else tokenizer(tmp_path, save)
    path = write_lines(tmp_path / "a.jsonl", rows)
    settings = encoding(
        tmp_path, tokenizer=own, prompts=PROMPTS, query_tokens=99, document_tokens=99
    )
    data, _ = made(tmp_path, SourceSpec("a", (path,)), encoding=settings)
    order = BatchSampler.of(data, batch=32)
    whole = BatchLoader(
        data, order, query_tokens=11, document_tokens=8, positives=None, ahead=0
    ).at(0)
    for column, side, texts, length in (
        (whole.query, "query", [rows[r]["query"] for r in whole.rows], 11),
        (
            whole.positive,
            "document",
            [text for r in whole.rows for text in listed(rows[r]["positive"])],
            8,
        ),
    ):
        expected = own.encode(
            texts, prompt=PROMPTS.prefix(side), max_length=length, mask="prompt"
        ).batch
        for name in ("ids", "cu_seqlens", "type_ids", "pool_from"):
            found = getattr(column.texts, name)
            np.testing.assert_array_equal(found, getattr(expected, name), err_msg=name)
            assert found.dtype == np.int32


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_processes_have_slices_of_the_same_batch(data, world):
    order = BatchSampler.of(data, batch=20)
    whole = BatchLoader(data, order, negatives=2, ahead=0)
    parts = [
        BatchLoader(data, order, negatives=2, rank=r, world=world, ahead=0) for r in range(world)
    ]
    for step in range(6):
        one, many = whole.at(step), [part.at(step) for part in parts]
        assert [part.first for part in many] == [20 * r // world for r in range(world)]
        assert {part.total for part in many} == {20}
        for name in ("query", "positive", "negative"):
            columns = [getattr(part, name) for part in many]
            for field in ("counts", "hashes"):
                joint = np.concatenate([getattr(column, field) for column in columns])
                np.testing.assert_array_equal(joint, getattr(getattr(one, name), field))
            ids = np.concatenate([column.texts.ids for column in columns])
            np.testing.assert_array_equal(ids, getattr(one, name).texts.ids)
        np.testing.assert_array_equal(
            np.concatenate([part.known_hashes for part in many]), one.known_hashes
        )


def test_positives_and_negatives_are_drawn_anew_each_epoch(data, rows):
    order = BatchSampler.of(data, batch=90)
    batches = BatchLoader(data, order, negatives=2, ahead=0)
    drawn_texts: dict[int, set[bytes]] = {}
    for step in range(12):
        batch = batches.at(step)
        assert batch.negative.counts.tolist() == [
            min(2, len(rows[row]["negative"])) for row in batch.rows.tolist()
        ]
        assert set(batch.positive.counts.tolist()) == {1}
        for at, row in enumerate(batch.rows.tolist()):
            own = [text_hash(text) for text in listed(rows[row]["positive"])]
            (found,) = texts_of(batch.positive, at)[1]
            assert found in own
            drawn_texts.setdefault(row, set()).add(found)
            negatives = texts_of(batch.negative, at)[1]
            places = [[text_hash(t) for t in rows[row]["negative"]].index(n) for n in negatives]
            assert places == sorted(set(places))
    possible = sum(len(listed(rows[row]["positive"])) for row in drawn_texts)
    assert sum(map(len, drawn_texts.values())) > 0.9 * possible
    again = BatchLoader(data, BatchSampler.of(data, batch=90), negatives=2, ahead=0)
    assert again.at(7).digest == batches.at(7).digest
    assert (
        BatchLoader(data, BatchSampler.of(data, batch=90, seed=1), ahead=0).at(7).digest
        != again.at(7).digest
    )


@given(st.lists(st.integers(0, 6), min_size=1, max_size=8), st.integers(1, 4), st.integers(0, 99))
def test_a_draw_of_each_row_is_its_own(counts, most, seed):
    keys = np.random.default_rng(seed).integers(0, 2**63, len(counts)).astype(np.uint64)
    kept, left = draw_at_most(np.array(counts), most, keys)
    assert left.tolist() == [min(count, most) for count in counts]
    start = 0
    expected: list[int] = []
    for index, count in enumerate(counts):  # each row alone gives the same
        alone, _ = draw_at_most(np.array([count]), most, keys[index : index + 1])
        expected += [start + place for place in alone.tolist()]
        start += count
    assert kept.tolist() == expected


def test_scores_go_with_their_texts(tmp_path):
    rows = [
        {
            "query": f"q {i}",
            "positive": [f"p {i} {j}" for j in range(2)],
            "negative": [f"n {i} {j}" for j in range(3)],
            "scores": [i + 0.1 * j for j in range(5)],
        }
        for i in range(20)
    ]
    data, _ = made(tmp_path, SourceSpec("a", (write_lines(tmp_path / "a.jsonl", rows),)))
    batch = BatchLoader(data, BatchSampler.of(data, batch=20), negatives=2, ahead=0).at(3)
    lookup = {
        text_hash(text): score
        for row in rows
        for text, score in zip(row["positive"] + row["negative"], row["scores"], strict=True)
    }
    for column in (batch.positive, batch.negative):
        expected = [lookup[one] for one in array_to_hashes(column.hashes)]
        np.testing.assert_allclose(column.scores, expected, rtol=1e-6)


def test_scored_pairs_have_their_scores_and_others_none(tmp_path, data):
    rows = [{"sentence1": f"a {i}", "sentence2": f"b {i}", "score": i / 7} for i in range(16)]
    (tmp_path / "s").mkdir()
    scored, _ = made(tmp_path / "s", SourceSpec("s", (write_lines(tmp_path / "s.jsonl", rows),)))
    batch = BatchLoader(scored, BatchSampler.of(scored, batch=16), ahead=0).at(0)
    assert batch.positive.scores.tolist() == [np.float32(row / 7) for row in batch.rows.tolist()]
    assert (batch.source.kind, batch.source.in_batch_negatives) == ("scored", False)
    plain = BatchLoader(data, BatchSampler.of(data, batch=16), ahead=0).at(0)
    assert plain.positive.scores is None


def test_labelled_rows_get_texts_of_their_label_and_of_others(tmp_path):
    labels = [i % 4 if i < 60 else 0 for i in range(80)]
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]
    path = write_lines(tmp_path / "a.jsonl", rows)
    data, _ = made(tmp_path, SourceSpec("a", (path,)), settings=PreparationSettings(shard_rows=30))
    assert data.sources[0].labels == ("0", "1", "2", "3")
    number = {text_hash(row["text"]): i for i, row in enumerate(rows)}
    partners: dict[int, set[int]] = {}
    batches = BatchLoader(data, BatchSampler.of(data, batch=40), negatives=5, ahead=0)
    for step in range(20):
        batch = batches.at(step)
        assert batch.negative.counts.tolist() == [5] * 40
        for at, row in enumerate(batch.rows.tolist()):
            (same,) = (number[one] for one in texts_of(batch.positive, at)[1])
            others = [number[one] for one in texts_of(batch.negative, at)[1]]
            assert same != row
            assert labels[same] == labels[row]
            assert len(set(others)) == 5
            assert labels[row] not in {labels[other] for other in others}
            partners.setdefault(row, set()).add(same)
    assert np.mean([len(found) for found in partners.values()]) > 5
    parts = [BatchLoader(data, batches.order, rank=r, world=3, ahead=0).at(2) for r in range(3)]
    whole = BatchLoader(data, batches.order, ahead=0).at(2)
    np.testing.assert_array_equal(
        np.concatenate([part.negative.hashes for part in parts]), whole.negative.hashes
    )
    np.testing.assert_array_equal(whole.known_hashes, whole.positive.hashes)


def test_more_negatives_than_other_labels_have(tmp_path):
    rows = [{"text": f"text {i}", "label": "a" if i < 6 else "b"} for i in range(8)]
    data, _ = made(tmp_path, SourceSpec("a", (write_lines(tmp_path / "a.jsonl", rows),)))
    batch = BatchLoader(data, BatchSampler.of(data, batch=8), negatives=5, ahead=0).at(0)
    assert batch.negative.counts.tolist() == [5] * 8


def test_raw_texts_are_queries_alone(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(words(i, 40) for i in range(8)))
    data, _ = made(tmp_path, SourceSpec("a", (tmp_path / "a.txt",)))
    batch = BatchLoader(data, BatchSampler.of(data, batch=4), ahead=0).at(0)
    assert len(batch.query) == 4
    assert len(batch.positive) == len(batch.negative) == len(batch.known_hashes) == 0


def both(data, **options) -> tuple[list[TrainingBatch], list[TrainingBatch]]:
    order = BatchSampler.of(data, batch=16)
    found = []
    for ahead in (0, 3):
        with BatchLoader(data, order, ahead=ahead, **options) as batches:
            found.append(list(batches))
    return found[0], found[1]


def test_a_thread_makes_the_same_batches(data):
    first, second = both(data, start=5, stop=25)
    assert [batch.step for batch in first] == list(range(5, 25))
    assert [batch.digest for batch in first] == [batch.digest for batch in second]
    assert len({batch.digest for batch in first}) == 20


def test_an_iterator_goes_on_where_it_was_left(data):
    with BatchLoader(data, BatchSampler.of(data, batch=16)) as batches:
        steps = iter(batches)
        assert [next(steps).step, next(steps).step] == [0, 1]
        assert next(iter(batches)).step == 2


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "gte-data"]


def test_closing_ends_the_thread(data):
    batches = BatchLoader(data, BatchSampler.of(data, batch=16))
    next(iter(batches))
    assert threads()
    batches.close()
    batches.close()
    assert not threads()
    with pytest.raises(InputError, match="were closed"):
        next(iter(batches))


def test_what_goes_wrong_in_the_thread_is_raised_by_the_iterator(data, monkeypatch):
    order = BatchSampler.of(data, batch=16)
    inner = order.at

    def fail(step):
        if step == 2:
            raise OSError("the disk is gone")
        return inner(step)

    monkeypatch.setattr(order, "at", fail)
    with BatchLoader(data, order) as batches:
        steps = iter(batches)
        assert [next(steps).step, next(steps).step] == [0, 1]
        for _ in range(2):
            with pytest.raises(OSError, match="the disk is gone"):
                next(iter(batches))


def test_waiting_is_measured(data, monkeypatch):
    order = BatchSampler.of(data, batch=16)
    inner = order.at
    monkeypatch.setattr(order, "at", lambda step: (time.sleep(0.02), inner(step))[1])
    with BatchLoader(data, order, stop=5) as batches:
        list(batches)
        assert batches.waited > 0.05


@pytest.mark.parametrize("save", [None, save_unigram])
@pytest.mark.parametrize("length", [10, 25, 99])
def test_joined_texts_are_what_the_tokenizer_makes_of_pairs(tmp_path, rows, save, length):
    own = tokenizer(tmp_path) if save is None else tokenizer(tmp_path, save)
    path = write_lines(tmp_path / "a.jsonl", rows)
    settings = encoding(
        tmp_path, tokenizer=own, prompts=Prompts(), query_tokens=99, document_tokens=99
    )
    data, _ = made(tmp_path, SourceSpec("a", (path,)), encoding=settings)
    batch = BatchLoader(data, BatchSampler.of(data, batch=20), positives=None, ahead=0).at(0)
    texts = [
        (rows[row]["query"], text)
        for row in batch.rows.tolist()
        for text in (*listed(rows[row]["positive"]), *rows[row]["negative"])
    ]
    found, expected = (
        cross_encoder_sequences(batch, own, length),
        own.encode_pairs(texts, max_length=length).batch,
    )
    for name in ("ids", "cu_seqlens", "type_ids", "pool_from"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    some = cross_encoder_sequences(batch, own, length, [3, 0])
    expected = own.encode_pairs([texts[3], texts[0]], max_length=length).batch
    np.testing.assert_array_equal(some.ids, expected.ids)
    with pytest.raises(InputError, match="leaves no room for two texts"):
        cross_encoder_sequences(batch, own, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 2, "world": 2}, "rank=2 of world=2"),
        ({"positives": 0}, "positives=0; expected at least 1"),
        ({"negatives": -1}, "negatives=-1"),
        ({"query_tokens": 0}, "limit of 0 tokens"),
    ],
)
def test_arguments_that_make_no_sense(data, options, message):
    with pytest.raises(InputError, match=message):
        BatchLoader(data, BatchSampler.of(data, batch=4), **options)


def test_arrays_are_such_as_pytorch_takes(data):
    torch = pytest.importorskip("torch")
    batch = BatchLoader(data, BatchSampler.of(data, batch=4), ahead=0).at(0)
    for column in (batch.query, batch.positive, batch.negative):
        texts = column.texts
        for array in (column.counts, texts.ids, texts.cu_seqlens, texts.type_ids, texts.pool_from):
            assert torch.from_numpy(array).dtype == torch.int32
    for array in (batch.rows, batch.query.hashes, batch.positive.hashes, batch.known_hashes):
        assert torch.from_numpy(array).dtype == torch.int64
