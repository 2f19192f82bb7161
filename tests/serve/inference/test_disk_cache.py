"""The disk cache: its format, its size, and its failures."""

import asyncio
import os
import sqlite3
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opengte.serve.config.inference import CacheSettings
from opengte.serve.inference import disk_cache
from opengte.serve.inference.disk_cache import DiskCache, deserialize, serialize
from opengte.serve.inference.types import InputResult
from tests.support.inference import Loader, embed, running, until

arrays = st.integers(0, 5).map(lambda n: np.arange(n, dtype=np.float32))
matrices = st.tuples(st.integers(0, 4), st.integers(1, 3)).map(
    lambda shape: np.random.default_rng(0).random(shape, np.float32)
)
rows = st.builds(
    InputResult,
    original_length=st.integers(0, 2**40),
    length=st.integers(0, 8192),
    dense=st.none() | arrays,
    sparse=st.none() | st.dictionaries(st.integers(0, 2**31), st.floats(0, 1), max_size=5),
    tokens=st.none() | matrices,
    states=st.none() | matrices,
    score=st.none() | st.floats(-5, 5),
)


@given(rows)
def test_a_row_survives_its_bytes(row):
    found = deserialize(serialize(row))
    assert found[:2] == row[:2] and found.sparse == row.sparse and found.score == row.score
    for name in ("dense", "tokens", "states"):
        one, other = getattr(found, name), getattr(row, name)
        if other is None:
            assert one is None
        else:
            assert one.shape == other.shape and one.tobytes() == other.tobytes()


@given(rows, st.data())
def test_damaged_bytes_are_no_row(row, data):
    value = bytearray(serialize(row))
    place = data.draw(st.integers(0, len(value) - 1))
    value[place] ^= data.draw(st.integers(1, 255))
    assert deserialize(bytes(value)) is None
    assert deserialize(bytes(value[: len(value) // 2])) is None


def filled(path, count, size=100, max_bytes=1 << 20):
    disk = DiskCache(path, max_bytes)
    for i in range(count):
        disk.put(b"%06d" % i, InputResult(1, 1, np.full(size, i, np.float32)))
    disk.close()
    return disk


def test_rows_outlive_the_server(tmp_path):
    path = tmp_path / "sub" / "cache.sqlite"
    assert filled(path, 500).errors == 0
    disk = DiskCache(path, 1 << 20)
    found = disk.get([b"%06d" % i for i in range(0, 1000, 2)])
    assert len(found) == 250
    np.testing.assert_array_equal(found[b"000042"].dense, np.full(100, 42, np.float32))
    disk.close()


def test_the_file_stays_within_its_bytes_and_keeps_what_was_used(tmp_path, monkeypatch):
    path = tmp_path / "cache.sqlite"
    filled(path, 100)
    disk = DiskCache(path, 100_000)
    assert disk.get([b"000000"])
    for i in range(1000, 1120):
        disk.put(b"%06d" % i, InputResult(1, 1, np.zeros(100, np.float32)))
    disk.close()
    assert disk.bytes <= 100_000
    reopened = DiskCache(path, 100_000)
    kept = reopened.get([b"%06d" % i for i in (*range(100), *range(1000, 1120))])
    reopened.close()
    assert b"000000" in kept and b"000001" not in kept and b"001119" in kept
    assert 100 < len(kept) < 250


def test_a_file_that_is_no_database_is_counted_and_left_alone(tmp_path, caplog):
    path = tmp_path / "cache.sqlite"
    path.write_bytes(b"this is no database" * 100)
    disk = filled(path, 10)
    assert disk.errors >= 1
    assert disk.get([b"000001"]) == {}
    assert "cannot be used to write" in caplog.text


def test_a_full_disk_is_counted(tmp_path, monkeypatch):
    def full(result):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(disk_cache, "serialize", full)
    assert filled(tmp_path / "cache.sqlite", 10).errors >= 1


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX permissions")
def test_a_place_that_cannot_be_written_is_counted(tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert filled(tmp_path / "file" / "cache.sqlite", 10).errors >= 1


def test_after_a_failure_the_file_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_cache, "RETRY_SECONDS", 0.05)
    path = tmp_path / "cache.sqlite"
    disk = DiskCache(path, 1 << 20)
    failures = iter([True])

    def once(result):
        if next(failures, None):
            raise sqlite3.OperationalError("database is locked")
        return serialize(result)

    monkeypatch.setattr(disk_cache, "serialize", once)
    disk.put(b"lost", InputResult(1, 1))
    deadline = time.monotonic() + 20
    while disk.errors == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    disk.put(b"kept", InputResult(1, 1))
    disk.close()
    assert disk.errors == 1 and list(disk.get([b"lost", b"kept"])) == [b"kept"]


def test_a_server_answers_from_the_disk_of_an_earlier_one(tmp_path):
    cache = CacheSettings(path=tmp_path / "cache.sqlite")
    load = Loader()
    texts = [f"text {i}" for i in range(50)]

    async def main():
        async with running(load=load, cache=cache) as core:
            return await embed(core, *texts)

    async def later():
        async with running(load=load, cache=cache) as core:
            batches = len(load.engines[-1].batches)
            answer = await embed(core, *texts, "a new one")
            assert len(load.engines[-1].batches) == batches + 1
            assert answer.cached == 50
            again = await embed(core, *texts)
            assert again.cached == 50 and core.cache_info().disk_errors == 0
            return answer

    first, second = asyncio.run(main()), asyncio.run(later())
    for one, other in zip(first.dense, second.dense, strict=False):
        np.testing.assert_array_equal(one, other)


def test_a_broken_cache_file_never_reaches_a_client(tmp_path):
    path = tmp_path / "cache.sqlite"
    path.write_bytes(b"this is no database" * 100)

    async def main():
        async with running(load=Loader(), cache=CacheSettings(path=path)) as core:
            for _ in range(3):
                assert (await embed(core, "a dog", "a cat")).dense[1] is not None
            await until(lambda: core.cache_info().disk_errors > 0)

    asyncio.run(main())


@pytest.mark.parametrize("how", ["garbage", "directory", "no folder"])
def test_a_damaged_file_is_counted_and_fails_no_request(tmp_path, how):
    path = tmp_path / "folder" / "cache.db"
    if how == "no folder":
        (tmp_path / "folder").write_text("a file")
    elif how == "directory":
        path.mkdir(parents=True)
    else:
        path.parent.mkdir()
        path.write_bytes(b"garbage" * 999)
    cache = DiskCache(path, 10_000)
    assert cache.get([b"key"]) == {}
    assert cache.errors == 1
    cache.put(b"key", InputResult(1, 1, score=0.5))
    cache.close()
