"""The result cache in memory."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opengte.serve.config.inference import CacheSettings
from opengte.serve.inference.cache import MemoryCache
from opengte.serve.inference.types import InputResult
from tests.support.inference import CountingObserver, Loader, embed, running


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.integers(1, 700)), max_size=60))
def test_memory_keeps_the_latest_within_its_bytes(steps):
    memory = MemoryCache(8000)
    kept: list[tuple[bytes, int]] = []  # what must be there, the one used last at the end
    for writes, number, size in steps:
        key = bytes([number])
        row = InputResult(1, 1, np.zeros(size, np.float32))
        held = [one for one in kept if one[0] == key]
        if writes:
            fits = row.nbytes <= 2000  # a quarter
            assert memory.put(key, row) == (fits and not held)
            kept += [(key, row.nbytes)] * (fits and not held)
            while sum(size for _, size in kept) > 8000:
                kept.pop(0)
        else:
            assert (memory.get(key) is not None) == bool(held)
            kept = [one for one in kept if one[0] != key] + held
        assert memory.bytes == sum(size for _, size in kept)
        assert len(memory) == len(kept)
    left = {key for key in map(bytes, ([n] for n in range(21))) if memory.get(key) is not None}
    assert left == {key for key, _ in kept}
    assert MemoryCache(0).put(b"x", InputResult(1, 1)) is False


def test_the_cache_answers_with_the_same_bits_within_its_bytes():
    async def main():
        load = Loader()
        cache = CacheSettings(memory_bytes=64 * 1024)
        async with running(load=load, cache=cache, observer=(seen := CountingObserver())) as core:
            first = await embed(core, "a dog", "a cat")
            batches = len(load.engines[0].batches)
            again = await embed(core, "a cat", "a dog")
            assert len(load.engines[0].batches) == batches
            assert again.cached == 2 and seen.counts["cache_hit"] == 2
            assert seen.counts["cache_miss"] == 2
            np.testing.assert_array_equal(first.dense[0], again.dense[1])
            assert again.token_counts == [4, 4]
            with pytest.raises(ValueError, match="read-only"):
                again.dense[0][0] = 1.0
            for different in (
                {"dimensions": 100},
                {"normalize": False},
                {"outputs": ("states",)},
                {"truncation": "left"},
            ):
                assert (await embed(core, "a dog", **different)).cached == 0
            await embed(core, *(f"text {i}" for i in range(200)))
            info = core.cache_info()
            assert 0 < info.bytes <= info.max_bytes == 64 * 1024
            assert info.entries < 60
            assert (await embed(core, "a dog")).cached == 0

    asyncio.run(main())
